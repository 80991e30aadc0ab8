"""OpenAI's API for text: /v1/completions and /v1/chat/completions, whole or as a stream of events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from kerasllm.errors import InputError, short
from kerasllm.generation.continuation import Settings
from kerasllm.generation.slots import MOST_ALTERNATIVES, SlotRequest
from kerasllm.serving import fields
from kerasllm.serving.context import Context, until_left
from kerasllm.serving.continuation import Continuation, run
from kerasllm.serving.errors import ServingError
from kerasllm.serving.log_probabilities import chat_log_probabilities, log_probabilities
from kerasllm.serving.served import ServedModel
from kerasllm.tokenizers.chat_template import render
from kerasllm.tokenizers.encoding import encode, encode_from_beginning
from kerasllm.tokenizers.special_tokens import end_of_text_id, template_tokens

_MOST_CHOICES = 64
_COMPLETION_TOKENS = 16  # OpenAI's default for completions
_MOST_TOKENS = "The most new tokens, up to the server's own limit."

SHARED: dict[str, fields.Field] = {
    "model": fields.text("The name of a model; by default the first that continues texts."),
    "temperature": fields.number("0 takes the most likely token, above 1 draws more evenly.", 0, 100, 1.0),
    "top_p": fields.number(
        "Draw from the most likely tokens that have this probability.", 0, 1, 1.0, above=True
    ),
    "top_k": fields.whole("Draw from so many most likely tokens; 0 and -1 for all.", -1, 2**24, 0),
    "min_p": fields.number("Draw from tokens with this share of the highest probability.", 0, 1, 0.0),
    "presence_penalty": fields.number("Lowers the scores of new tokens that occurred.", -2, 2, 0.0),
    "frequency_penalty": fields.number("Lowers them for each time that they occurred.", -2, 2, 0.0),
    "repetition_penalty": fields.number(
        "Above 1, tokens that occurred anywhere score lower.", 0, 100, 1.0, above=True
    ),
    "seed": fields.whole("One seed gives one text; by default a new one each time.", -(2**63), 2**63),
    "stop": fields.stop_texts("Texts at which the answer is cut off."),
    "n": fields.whole("Number of answers to each prompt.", 1, 16, 1),
    "stream": fields.flag("Whether the answer comes as a stream of events."),
    "stream_options": fields.Field(
        lambda value: _stream_options(value), {"type": "object"}, 'Such as {"include_usage": true}.', False
    ),
    "user": fields.ignored("Ignored."),
    "metadata": fields.ignored("Ignored."),
    "store": fields.ignored("Ignored."),
    "service_tier": fields.ignored("Ignored."),
    "logit_bias": fields.only({}, "Not possible here."),
}

COMPLETION: dict[str, fields.Field] = SHARED | {
    "prompt": fields.prompts("One or several prompts, texts or lists of token ids."),
    "max_tokens": fields.whole(_MOST_TOKENS, 1),
    "echo": fields.flag("Whether the prompt comes before the answer."),
    "logprobs": fields.whole("Number of likely tokens to give for each token.", 0, MOST_ALTERNATIVES),
    "best_of": fields.only(1, "Not possible here."),
    "suffix": fields.only("", "Not possible here."),
}

CHAT: dict[str, fields.Field] = SHARED | {
    "messages": fields.messages("The conversation; the model answers its last message."),
    "max_tokens": fields.whole(_MOST_TOKENS, 1),
    "max_completion_tokens": fields.whole(_MOST_TOKENS, 1),
    "logprobs": fields.flag("Whether the log probability of each token is given."),
    "top_logprobs": fields.whole("Number of likely tokens to give for each token.", 0, MOST_ALTERNATIVES, 0),
    "tools": fields.only([], "Not possible here."),
    "tool_choice": fields.only("none", "Not possible here."),
    "response_format": fields.only({"type": "text"}, "Not possible here."),
}


async def complete(context: Context, request: Request) -> Response:
    """Answers /v1/completions."""
    values = fields.read(COMPLETION, await context.body(request))
    model = context.model(values["model"], "causal_lm")
    alternatives = values["logprobs"]
    prompts = [_prompt_ids(model, prompt, number) for number, prompt in enumerate(values["prompt"], 1)]
    room = model.positions - max(map(len, prompts))
    most = values["max_tokens"] or max(min(room, _COMPLETION_TOKENS), 1)
    continuations = _continuations(context, model, prompts, values, most, alternatives or 0)
    stops = list(model.predictor.model.config.end_token_ids)
    before = [""] * len(continuations)
    if values["echo"]:
        if alternatives is not None:
            raise ServingError(
                400, "echo with logprobs is not possible here: leave out one", parameter="echo"
            )
        texts = [
            prompt if isinstance(prompt, str) else model.predictor.tokenizer.decode(prompt)
            for prompt in values["prompt"]
        ]
        before = [text for text in texts for _ in range(values["n"])]
    shown: dict[int, int] = {}  # characters of each answer that the client has

    def choice(each: Continuation, text: str, tokens: Sequence[Any]) -> dict[str, Any]:
        if each.index not in shown:
            text = before[each.index] + text
        offset = shown.get(each.index, 0)
        shown[each.index] = offset + len(text)
        found = None
        if alternatives is not None:
            found = log_probabilities(model.predictor.tokenizer, tokens, offset)
        return {"index": each.index, "text": text, "logprobs": found, "finish_reason": each.reason}

    form = _Form("cmpl", "text_completion", "text_completion", choice, choice)
    return await _answer(context, request, model, continuations, stops, values, form)


async def chat(context: Context, request: Request) -> Response:
    """Answers /v1/chat/completions."""
    values = fields.read(CHAT, await context.body(request))
    model = context.model(values["model"], "causal_lm")
    if model.chat_template is None:
        raise ServingError(
            400,
            f"{model.name} has no chat template: ask /v1/completions, or serve a model tuned on conversations",
        )
    tokenizer = model.predictor.tokenizer
    text = render(
        values["messages"],
        model.chat_template,
        tokens=template_tokens(tokenizer),
        add_generation_prompt=True,
    )
    prompt = encode(tokenizer, text, "the messages", special_tokens=True)
    if not prompt:
        raise ServingError(422, "the messages give no text", parameter="messages")
    most = values["max_completion_tokens"] or values["max_tokens"]
    most = most or max(min(model.positions - len(prompt), context.limits.max_tokens), 1)
    alternatives = values["top_logprobs"] if values["logprobs"] else 0
    continuations = _continuations(context, model, [prompt], values, most, alternatives)
    stops = list(dict.fromkeys([end_of_text_id(tokenizer), *model.predictor.model.config.end_token_ids]))
    started: set[int] = set()

    def choice(each: Continuation, key: str, text: str, tokens: Sequence[Any]) -> dict[str, Any]:
        content = {"content": text}
        if each.index not in started:
            content = {"role": "assistant", **content}
            started.add(each.index)
        found = chat_log_probabilities(tokenizer, tokens) if values["logprobs"] else None
        return {"index": each.index, key: content, "logprobs": found, "finish_reason": each.reason}

    form = _Form(
        "chatcmpl",
        "chat.completion",
        "chat.completion.chunk",
        lambda each, text, tokens: choice(each, "message", text, tokens),
        lambda each, text, tokens: choice(each, "delta", text, tokens),
    )
    return await _answer(context, request, model, continuations, stops, values, form)


class _Form:
    """How answers look: the prefix of their ids, the names of their kinds, and a choice, whole or as a piece."""

    def __init__(
        self, prefix: str, whole: str, piece: str, choice: Callable[..., Any], delta: Callable[..., Any]
    ) -> None:
        self.id, self.created = f"{prefix}-{secrets.token_hex(12)}", int(time.time())
        self.whole, self.piece, self.choice, self.delta = whole, piece, choice, delta

    def envelope(self, kind: str, model: str, choices: Sequence[Any], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": model}
        return {**head, "choices": list(choices), **more}


async def _answer(
    context: Context,
    request: Request,
    model: ServedModel,
    continuations: list[Continuation],
    stops: Sequence[int],
    values: Mapping[str, Any],
    form: _Form,
) -> Response:
    assert model.engine is not None  # as its task is causal_lm
    news = run(
        model.engine, continuations, stops, context.limits.seconds, context.metrics.observe_first_token
    )
    if values["stream"]:

        async def begin() -> Continuation:
            return await anext(news)

        first = await until_left(request, begin())  # what is wrong by now is told by the status
        events = _events(context, model, first, news, continuations, values, form)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    async def whole() -> Response:
        async for _ in news:
            pass
        context.metrics.count_tokens(sum(len(each.tokens) for each in continuations))
        choices = [form.choice(each, each.text, each.tokens) for each in continuations]
        usage = _usage(continuations, values["n"])
        return JSONResponse(form.envelope(form.whole, model.name, choices, usage=usage))

    return await until_left(request, whole())


async def _events(
    context: Context,
    model: ServedModel,
    first: Continuation,
    news: AsyncGenerator[Continuation, None],
    continuations: Sequence[Continuation],
    values: Mapping[str, Any],
    form: _Form,
) -> AsyncIterator[str]:
    """Yields the events of a stream; it is closed when the client leaves."""

    def event(content: Mapping[str, Any]) -> str:
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"

    def piece(each: Continuation) -> str:
        text, tokens = each.news()
        if not text and not tokens and each.reason is None:
            return ""
        return event(form.envelope(form.piece, model.name, [form.delta(each, text, tokens)]))

    try:
        if found := piece(first):
            yield found
        async for each in news:
            if found := piece(each):
                yield found
        if values["stream_options"]:
            usage = _usage(continuations, values["n"])
            yield event(form.envelope(form.piece, model.name, [], usage=usage))
    except ServingError as error:
        yield event(error.body())
    finally:
        await news.aclose()
        context.metrics.count_tokens(sum(len(each.tokens) for each in continuations))
    yield "data: [DONE]\n\n"


def _continuations(
    context: Context,
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    values: Mapping[str, Any],
    most: int,
    alternatives: int,
) -> list[Continuation]:
    """Returns the texts to continue: `n` for each prompt."""
    if len(prompts) * values["n"] > _MOST_CHOICES:
        raise ServingError(
            400, f"prompts times n is above {_MOST_CHOICES}: send several requests", parameter="n"
        )
    if most > context.limits.max_tokens:
        name = "max_completion_tokens" if values.get("max_completion_tokens") else "max_tokens"
        raise ServingError(
            400,
            f"{name} is {short(most)}, this server gives at most {context.limits.max_tokens}",
            parameter=name,
        )
    for prompt in prompts:
        if len(prompt) + most > model.positions:
            raise ServingError(
                400,
                f"a prompt of {len(prompt)} tokens and {most} new ones do not fit into the {model.positions} positions "
                f"of {model.name}: shorten one of them",
                code="context_length_exceeded",
            )
    seed = secrets.randbits(31) if values["seed"] is None else values["seed"] % 2**31
    continuations = []
    for index in range(len(prompts) * values["n"]):
        settings = Settings(
            max_new_tokens=most,
            temperature=values["temperature"],
            top_k=values["top_k"] if values["top_k"] > 0 else None,
            top_p=values["top_p"],
            min_p=values["min_p"] or None,
            repetition_penalty=values["repetition_penalty"],
            stop=tuple(values["stop"]),
            seed=seed,
            first_row=index,
        )
        request = SlotRequest(
            prompts[index // values["n"]],
            settings,
            values["presence_penalty"],
            values["frequency_penalty"],
            alternatives,
        )
        continuations.append(Continuation(index, request, model.predictor.tokenizer, most))
    return continuations


def _prompt_ids(model: ServedModel, prompt: Any, number: int) -> list[int]:
    """Returns the token ids of a prompt.

    Raises:
        ServingError: a token is unknown, or the prompt is empty and the model has no token that begins a text.
    """
    config = model.predictor.model.config
    if not isinstance(prompt, str):
        if not all(0 <= token < config.vocabulary_size for token in prompt):
            raise ServingError(
                400,
                f"prompt {number} holds a token that is none of 0 to {config.vocabulary_size - 1}",
                parameter="prompt",
            )
        return prompt
    ids = encode_from_beginning(model.predictor.tokenizer, prompt, f"prompt {number}")
    if not ids and config.end_token_id is None:
        raise InputError(f"prompt {number} is empty, and {model.name} has no token that begins a text")
    return ids or [config.end_token_id]


def _usage(continuations: Sequence[Continuation], n: int) -> dict[str, int]:
    prompt = sum(len(each.request.prompt) for each in continuations[::n])
    new = sum(len(each.tokens) for each in continuations)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _stream_options(value: Any) -> bool:
    return isinstance(value, dict) and value.get("include_usage") is True
