"""Writes a SavedModel that takes texts, on TensorFlow with tensorflow-text, and compares it; run by a test."""

import json
import sys
from pathlib import Path

import kerasllm

# isort: split
import keras
import numpy as np
import tensorflow_text
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from kerasllm.backend.tensorflow.texts import bert_normalized
from kerasllm.export.samples import TEXTS
from kerasllm.export.saved_model import write_saved_model

SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "max_sequence_length": 64,
    "initializer_range": 0.3,
}
LETTERS = "abcdefghijklmnopqrstuvwxyzßøæœđłσςγδωабвгд0123456789.,!?-…½漢字かな한ㄱ"
DRAWN = (
    LETTERS
    + "ABCÄÖÜẞÉÈÇŞIİıĞΣΓΔΩАБВÅǄﬁⅣ\u0301\u0327\u00ad\u200b\u200d\ufeff\t\n\r\u00a0\u3000 \x07\x00\ufffd🙂"
)
reports = {}
for lowercase in (False, True):
    tokenizer = kerasllm.train_wordpiece(TEXTS, vocabulary_size=150, lowercase=lowercase)
    config = kerasllm.BertConfig(vocabulary_size=150, **SIZES)
    directory = Path(sys.argv[1]) / str(lowercase)
    directory.mkdir()
    model = kerasllm.BertClassifier(config, num_classes=3, seed=0)
    reports[str(lowercase)] = write_saved_model(model, tokenizer, directory)
letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
tokenizer = Tokenizer(
    models.WordPiece({name: number for number, name in enumerate(["[UNK]", *letters])}, unk_token="[UNK]")
)
tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
pieces = tensorflow_text.FastBertTokenizer(vocab=["[UNK]", *letters], token_out_type="int32")
random = np.random.default_rng(0)
texts = ["".join(random.choice(list(DRAWN), 30)) for _ in range(2000)]
found = pieces.tokenize(
    bert_normalized(keras.ops.convert_to_tensor(texts, "string"), lowercase=True)
).to_list()
expected = [each.ids for each in tokenizer.encode_batch(texts)]
reports["many"] = {"compared": len(texts), "differ": sum(map(list.__ne__, found, expected))}
Path(sys.argv[1], "reports.json").write_text(json.dumps(reports))
assert np.isfinite(reports["False"]["comparison"]["greatest_difference"])
