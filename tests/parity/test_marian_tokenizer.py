"""The tokenizer of a Marian directory against `transformers.MarianTokenizer`, made of SentencePiece models."""

import json

import numpy as np
import pytest

from kerasllm.data.examples.parallel import encode_side
from kerasllm.errors import InputError
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.parallel import decode_text, target_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer

sentencepiece = pytest.importorskip(
    "sentencepiece", reason="sentencepiece is not installed in this environment"
)
transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")

ODD = [
    "",
    "  two  spaces ",
    "\uff21\uff22 \u2460 caf\u00e9",
    "\u6f22 red",
    "\u5b57\u5b57 red",
    "a\tb",
    "\u00fc",
    "a \u00fc b",
    "ab\u00df",
    ">>de<< the red boats",
    "Gr\u00f6e \u00fcber",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two Unigram models of texts in different alphabets, and their vocabulary."""
    folder = tmp_path_factory.mktemp("marian")
    random = np.random.default_rng(0)
    letters = {"source": "abcdefgh", "target": "fghijkl\u00fc\u00df\u6f22"}
    for side, alphabet in letters.items():
        own = ["".join(random.choice(list(alphabet), random.integers(1, 6))) for _ in range(60)]
        texts = [" ".join(random.choice(own, 6)) for _ in range(300)]
        (folder / f"{side}.txt").write_text("\n".join(texts), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / f"{side}.txt"), model_prefix=str(folder / side), vocab_size=60, minloglevel=2
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side in letters:
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        for number in range(3, model.get_piece_size()):
            vocabulary.setdefault(model.id_to_piece(number), len(vocabulary))
    vocabulary |= {">>de<<": len(vocabulary), "<pad>": len(vocabulary) + 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.filterwarnings("ignore:Recommended:UserWarning")
def test_ids_and_texts_are_those_of_transformers(directory, tmp_path):
    theirs, ours = transformers.MarianTokenizer.from_pretrained(directory), load_tokenizer(directory)
    save_tokenizer(ours, tmp_path / "saved")
    for tokenizer in (ours, load_tokenizer(tmp_path / "saved")):
        lines = {side: (directory / f"{side}.txt").read_text().splitlines() for side in ("source", "target")}
        end = tokenizer.token_to_id("</s>")
        encoded = encode_side(lines["source"] + ODD, tokenizer, end)
        for text, ids in zip(lines["source"] + ODD, encoded, strict=True):
            assert ids.tolist() == theirs(text)["input_ids"], text
        encoded = encode_side(lines["target"], target_tokenizer(tokenizer), end)
        for text, ids in zip(lines["target"], encoded, strict=True):
            assert ids.tolist() == theirs(text_target=text)["input_ids"], text
            assert decode_text(tokenizer, ids) == text == theirs.decode(ids, skip_special_tokens=True).strip()


def test_what_is_no_marian_tokenizer(directory, tmp_path):
    def changed(name: str, content: bytes):
        for file in ("source.spm", "target.spm", "vocab.json"):
            (tmp_path / file).write_bytes((directory / file).read_bytes())
        (tmp_path / name).write_bytes(content)
        return pytest.raises(InputError, match=rf"{name}: ")

    for content in (b"[]", b"{", b'{"</s>": 0}', b'{"</s>": 0, "<unk>": 1, "<pad>": 7}'):
        with changed("vocab.json", content):
            load_tokenizer(tmp_path)
    for content in (b"", b"nothing", (directory / "source.spm").read_bytes()[:50]):
        with changed("source.spm", content):
            load_tokenizer(tmp_path)
