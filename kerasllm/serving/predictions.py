"""The tasks of encoders and encoder-decoders: classes, tags, answers, masked words, translations and vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kerasllm.serving import fields
from kerasllm.serving.batching import QueueFull
from kerasllm.serving.context import Context, until_left
from kerasllm.serving.errors import ServingError, overloaded
from kerasllm.serving.served import PredictionKey, ServedModel

_MODEL = fields.text("The name of a model; by default the first for the task.")

CLASSIFY: Mapping[str, fields.Field] = {
    "model": _MODEL,
    "input": fields.texts("The texts, or pairs of texts, to classify.", are_pairs_allowed=True),
}
FILL_MASK: Mapping[str, fields.Field] = {
    "model": _MODEL,
    "input": fields.texts("The texts, each with [MASK] in the place of a word.", are_pairs_allowed=True),
    "top_k": fields.whole("Number of candidates for each [MASK].", 1, 100, 5),
}
TAG: Mapping[str, fields.Field] = {"model": _MODEL, "input": fields.texts("The texts to tag.")}
TRANSLATE: Mapping[str, fields.Field] = {"model": _MODEL, "input": fields.texts("The texts to translate.")}
ANSWER: Mapping[str, fields.Field] = {
    "model": _MODEL,
    "question": fields.text("The question.", is_required=True),
    "context": fields.text("The text that holds the answer.", is_required=True),
}
EMBEDDINGS: Mapping[str, fields.Field] = {
    "model": _MODEL,
    "input": fields.texts("The texts."),
    "encoding_format": fields.choice(
        "Vectors as numbers, or as base64 of float32.", "float", "base64", default="float"
    ),
    "dimensions": fields.whole("Leading numbers of each vector to keep, scaled to length 1.", 1, 2**20),
    "input_type": fields.text('What the vectors are for: "query", "document", or a prompt of the model.'),
    "user": fields.ignored("Ignored."),
}


async def classify(context: Context, request: Request) -> Response:
    """Answers /classify."""
    values = fields.read(CLASSIFY, await context.body(request))
    model = context.model(values["model"], "classification", "regression")
    return await _predict(context, request, model, values["input"], PredictionKey())


async def fill_mask(context: Context, request: Request) -> Response:
    """Answers /fill-mask."""
    values = fields.read(FILL_MASK, await context.body(request))
    model = context.model(values["model"], "masked_lm")
    return await _predict(context, request, model, values["input"], PredictionKey(values["top_k"]))


async def tag(context: Context, request: Request) -> Response:
    """Answers /tag."""
    values = fields.read(TAG, await context.body(request))
    model = context.model(values["model"], "tagging")
    return await _predict(context, request, model, values["input"], PredictionKey())


async def translate(context: Context, request: Request) -> Response:
    """Answers /translate."""
    values = fields.read(TRANSLATE, await context.body(request))
    model = context.model(values["model"], "translation")
    return await _predict(context, request, model, values["input"], PredictionKey())


async def answer(context: Context, request: Request) -> Response:
    """Answers /answer."""
    values = fields.read(ANSWER, await context.body(request))
    for name in ("question", "context"):
        if not values[name].strip():
            raise ServingError(400, f"{name} is empty", parameter=name)
    model = context.model(values["model"], "question_answering")
    pair = (values["question"], values["context"])
    return await _predict(context, request, model, [pair], PredictionKey())


async def embed(context: Context, request: Request) -> Response:
    """Answers /v1/embeddings."""
    values = fields.read(EMBEDDINGS, await context.body(request))
    model = context.model(values["model"], "embedding")
    dimensions = values["dimensions"]
    if dimensions is not None and dimensions > model.predictor.model.dim:
        raise ServingError(
            400,
            f"dimensions is {dimensions}, vectors of {model.name} have {model.predictor.model.dim}",
            parameter="dimensions",
        )

    def shown(prediction: Mapping[str, Any]) -> dict[str, Any]:
        vector = prediction["vector"]
        if dimensions is not None:
            vector = vector[:dimensions]
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        if values["encoding_format"] == "base64":
            plain: Any = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
        else:
            plain = [float(number) for number in vector]
        return {"object": "embedding", "embedding": plain}

    key = PredictionKey(purpose=values["input_type"])
    return await _predict(context, request, model, values["input"], key, shown)


async def _predict(
    context: Context,
    request: Request,
    model: ServedModel,
    texts: Sequence[tuple[str, ...]],
    key: PredictionKey,
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Response:
    """Returns the predictions for texts as a response, in the form of OpenAI's lists."""
    assert model.batcher is not None  # as its task is none that continues texts
    try:
        future = model.batcher.submit(texts, key)
    except QueueFull as error:
        raise overloaded("too many requests wait: try again later") from error
    try:
        async with asyncio.timeout(context.limits.seconds):
            found = await until_left(request, _result(future))
    except TimeoutError as error:
        raise overloaded(f"the answer took longer than {context.limits.seconds:g} seconds") from error
    finally:
        future.cancel()
    data = [{"index": index, **shown(prediction)} for index, (prediction, _) in enumerate(found)]
    tokens = sum(count for _, count in found)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": model.name, "data": data, "usage": usage})


async def _result(future: Any) -> Any:
    return await asyncio.wrap_future(future)
