"""Export to TensorFlow's SavedModel, with texts as inputs where TensorFlow splits them as the tokenizer does."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError
from kerasllm.export.comparison import compare
from kerasllm.export.samples import TEXTS, sample_batches
from kerasllm.models import BertClassifier, BertEncoder, BertRegressor
from kerasllm.models.export import signature_of, types_of
from kerasllm.tokenizers.saving import save_tokenizer

_FOLDER, _TOKENS, _TEXTS = "saved_model", "serve", "serve_texts"
_ODD_TEXTS = (
    "Crème brûlée, naïve façade — “quoted” ‘words’…",
    "3.14 % of $1,000 is $31.40; e-mail me@example.org or see https://example.org/a?b=c",
    "日本語のテキスト and 한국어 текст на русском ελληνικά",
    "don't can't won't it's\ttabs\nand\r\nlines\u00a0and more",
    "UPPER lower MiXeD ＦＵＬＬ width ﬁligature ½ Ⅳ ß İ",
    "ΟΔΥΣΣΕΥΣ ÅNGSTRÖM İstanbul STRAẞE हिन्दी עִבְרִית a\u00adb zero\u200bwidth\x07 \ufffd",
    "emoji 🙂👍🏽 and a word of many letters: " + "x" * 120,
)


def write_saved_model(model: Any, tokenizer: Any, directory: Path) -> dict[str, Any]:
    """Writes a SavedModel and the tokenizer's files, and compares its results with the model's.

    Its function `serve` takes a dict by the names of the model's inputs. `serve_texts`, where it is there, takes texts
    (batch,) and cuts them to the tokens that the model has positions for.

    Args:
        model: a model; on TensorFlow.
        tokenizer: its tokenizer.
        directory: an empty directory.

    Returns:
        The differences, and notes on what is missing.

    Raises:
        InputError: the backend is another one, or the results differ.
    """
    if backend.name != "tensorflow":
        raise InputError(
            f"--format tf_saved_model is written by TensorFlow, not by {backend.name}: run with "
            "KERAS_BACKEND=tensorflow"
        )
    path = directory / _FOLDER
    inputs = next(sample_batches(model, tokenizer))
    archive = keras.export.ExportArchive()
    signature = signature_of(types_of(inputs))

    def serve(given: Mapping[str, Any]) -> Any:
        return model(given, training=False)

    archive.add_endpoint(_TOKENS, serve, input_signature=signature)
    tokenize, missing = _text_tokenizer(model, tokenizer)
    if tokenize is not None:

        def serve_texts(texts: Any) -> Any:
            return model(tokenize(texts), training=False)

        archive.add_endpoint(
            _TEXTS,
            serve_texts,
            input_signature=[keras.InputSpec(shape=(None,), dtype="string", name="texts")],
        )
    archive.write_out(str(path), verbose=False)
    save_tokenizer(tokenizer, directory, max_length=model.config.max_sequence_length)
    report: dict[str, Any] = {
        "comparison": compare(model, _Served(path), tokenizer).checked(path, precision="float32"),
        "notes": [missing] if missing else [],
    }
    if tokenize is not None:
        report["texts"] = _compare_texts(model, tokenizer, path)
    return report


class _Served:
    """The SavedModel as a model."""

    def __init__(self, path: Path) -> None:
        self._layer = keras.layers.TFSMLayer(str(path), call_endpoint=_TOKENS)

    def predict_on_batch(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """Returns the outputs as NumPy arrays."""
        return keras.tree.map_structure(keras.ops.convert_to_numpy, self._layer(dict(inputs)))


def _text_tokenizer(model: Any, tokenizer: Any) -> tuple[Callable[[Any], Any] | None, str]:
    """Returns a function from a tensor of texts to the model's inputs; or None, and why there is none."""
    reason = "the SavedModel takes tokens and no texts: "
    if not isinstance(model, BertClassifier | BertRegressor | BertEncoder):
        return None, f"{reason}texts are for classifiers, regressors and encoders"
    description = json.loads(tokenizer.to_str())
    normalizer = description.get("normalizer") or {}
    is_bert = description["model"].get("type") == "WordPiece" and normalizer.get("type") == "BertNormalizer"
    lowercase = bool(normalizer.get("lowercase"))
    strips = normalizer.get("strip_accents")
    if not is_bert or not normalizer.get("handle_chinese_chars") or strips not in (None, lowercase):
        return None, f"{reason}the tokenizer is not BERT's"
    if importlib.util.find_spec("tensorflow_text") is None:
        return None, f"{reason}install tensorflow-text of TensorFlow's version"
    import tensorflow_text

    from kerasllm.backend.tensorflow.texts import bert_normalized

    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    pieces = tensorflow_text.FastBertTokenizer(
        vocab=[piece for piece, _ in vocabulary],
        token_out_type="int32",
        lower_case_nfd_strip_accents=False,
    )
    first, last, pad = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]"))
    room = model.config.max_sequence_length - 2

    def tokenize(texts: Any) -> dict[str, Any]:
        normalized = bert_normalized(texts, lowercase)
        ids, segments = tensorflow_text.combine_segments([pieces.tokenize(normalized)[:, :room]], first, last)
        token_ids = ids.to_tensor(default_value=pad)
        real = keras.ops.cast(keras.ops.not_equal(segments.to_tensor(default_value=-1), -1), "int32")
        return {"token_ids": token_ids, "segment_ids": keras.ops.zeros_like(token_ids), "padding_mask": real}

    every = [*TEXTS, *map(str.upper, TEXTS), *_ODD_TEXTS]
    found = tokenize(keras.ops.convert_to_tensor(every, "string"))
    ids, mask = (np.asarray(found[name]) for name in ("token_ids", "padding_mask"))
    encoded = encode_texts(tokenizer, [(text,) for text in every], model.config.max_sequence_length)
    for index, text in enumerate(every):
        expected = encoded.token_ids[encoded.offsets[index] : encoded.offsets[index + 1]]
        if ids[index][mask[index] == 1].tolist() != expected.tolist():
            return None, f"{reason}tensorflow-text splits {text[:40]!r} in another way than the tokenizer"
    return tokenize, ""


def _compare_texts(model: Any, tokenizer: Any, path: Path) -> dict[str, float]:
    """Returns the greatest difference of results for texts, and for their tokens."""
    encoded = encode_texts(tokenizer, [(text,) for text in TEXTS], model.config.max_sequence_length)
    served = keras.layers.TFSMLayer(str(path), call_endpoint=_TEXTS)
    found = np.asarray(served(keras.ops.convert_to_tensor(list(TEXTS), "string")))
    greatest = 0.0
    for index, row in enumerate(found):
        token_ids = encoded.token_ids[None, encoded.offsets[index] : encoded.offsets[index + 1]]
        expected = np.asarray(model.predict_on_batch({"token_ids": token_ids}))[0]
        greatest = max(greatest, float(np.abs(row - expected).max()))
    if not greatest <= 1e-4:
        raise InputError(
            f"{path}: results for texts differ from the model's by {greatest:.2g}; nothing is kept"
        )
    return {"greatest_difference": greatest}
