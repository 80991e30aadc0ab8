"""Figures on a run's validation data, whose settings are read from the run."""

from itertools import pairwise

import numpy as np
import pytest
import yaml

import kerasllm
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.store import tokenize_corpus
from kerasllm.export.held_out import validation_figures
from kerasllm.export.samples import TEXTS
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.tokenizers.parallel import train_joint_tokenizer
from kerasllm.tokenizers.wordpiece import special_token_ids

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 64}


def write_run(path, **settings):
    (path / "config.yaml").write_text(yaml.safe_dump({"seed": 0, **settings}))
    return path


def test_tagger(wordpiece, with_weights, tmp_path):
    file = tmp_path / "dev.conll"
    file.write_text(
        "\n\n".join("\n".join(f"{w}\t{'B-a' if w == 'the' else 'O'}" for w in t.split()) for t in TEXTS[3:6])
    )
    config = kerasllm.BertConfig(vocabulary_size=150, **SIZES)
    model = with_weights(kerasllm.BertTokenClassifier(config, label_names=["O", "B-a", "I-a"]))
    run = write_run(tmp_path, train=str(file), validation=str(file), sequence_length=64, token_column="0")
    figures = validation_figures(run, model, wordpiece)(model)
    right = []
    for text in TEXTS[3:6]:  # one by one, without padding
        encoding = wordpiece.encode(text)
        scores = model.predict_on_batch({"token_ids": np.array([encoding.ids])})[0]
        firsts = [encoding.word_ids.index(number) for number in range(len(text.split()))]
        right += [
            scores[first].argmax() == (1 if word == "the" else 0)
            for first, word in zip(firsts, text.split(), strict=True)
        ]
    assert figures["accuracy"] == pytest.approx(np.mean(right), abs=1e-9)


def test_translator(with_weights, tmp_path):
    for side in "ab":
        (tmp_path / side).write_text("\n".join(TEXTS[:3]) + "\n")
    files = [str(tmp_path / side) for side in "ab"]
    tokenizer = train_joint_tokenizer(TEXTS, 300)
    size = tokenizer.get_vocab_size()
    model = with_weights(kerasllm.Seq2SeqLM(kerasllm.Seq2SeqConfig(vocabulary_size=size, **SIZES)))
    run = write_run(tmp_path, train=files, validation=[*files], test=["missing.a", "missing.b"])
    figures = validation_figures(run, model, tokenizer)(model)
    total = tokens = 0
    for text in TEXTS[:3]:  # one by one, without padding
        ids = np.array([*tokenizer.encode(text, add_special_tokens=False).ids, model.config.end_token_id])
        begun = np.array([model.config.pad_token_id, *ids[:-1]])
        logits = model.predict_on_batch({"encoder_token_ids": ids[None], "decoder_token_ids": begun[None]})[0]
        logits = logits - logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= logits[np.arange(len(ids)), ids].sum()
        tokens += len(ids)
    assert figures["tokens"] == tokens
    assert figures["loss"] == pytest.approx(total / tokens, abs=1e-4)


def test_pretrained_bert(wordpiece, with_weights, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(TEXTS[3:6]) + "\n")
    model = with_weights(kerasllm.BertPretraining(kerasllm.BertConfig(vocabulary_size=150, **SIZES)))
    settings = {"corpus": [str(file)], "validation_corpus": [str(file)], "validation_fraction": 0.0}
    settings |= {"text_column": None, "objectives": ["masked_lm", "next_sentence"], "sequence_length": 32}
    run = write_run(tmp_path, **settings, masking="token", masking_probability=0.3)
    figures = validation_figures(run, model, wordpiece)(model)
    batches = BertPretrainingBatches(  # which name the places that are predicted
        tokenize_corpus(Corpus([str(file)]), wordpiece, progress=False),
        special=special_token_ids(wordpiece),
        sequence_length=32,
        batch_size=8,
        steps=20,
        seed=0,
        objectives=("masked_lm",),
        masking_probability=0.3,
        pad_last=True,
        prefetch=0,
    )
    alone = kerasllm.BertMaskedLM(model.config)
    trained = model.named_variables()
    for name, variable in alone.named_variables().items():
        variable.assign(trained[name])
    MaskedLanguageModeling().compile(alone)
    expected = MaskedLanguageModeling().evaluate(alone, batches)
    assert figures["loss"] == pytest.approx(expected["masked_lm_loss"], abs=1e-4)
    assert figures["accuracy"] == pytest.approx(expected["masked_lm_accuracy"], abs=1e-6)
    assert figures["tokens"] > 5


def test_encoder(wordpiece, with_weights, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in pairwise(TEXTS[3:7])))
    model = with_weights(kerasllm.BertEncoder(kerasllm.BertConfig(vocabulary_size=150, **SIZES)))
    run = write_run(tmp_path, train=str(file), validation=str(file), text_columns="0,1", sequence_length=64)
    figures = validation_figures(run, model, wordpiece)(model)
    vectors = [
        np.asarray(model.predict_on_batch({"token_ids": np.array([wordpiece.encode(text).ids])}))[0]
        for text in TEXTS[3:7]
    ]
    ranks = []
    for number in range(3):  # a positive among all positives but the anchor's own text
        cosines = {other: vectors[number] @ vectors[other] for other in range(1, 4) if other != number}
        ranks.append(sum(cosine >= cosines[number + 1] for cosine in cosines.values()))
    assert figures["mrr@10"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert figures["examples"] == 3


def test_no_run_and_no_validation_data(make_gpt, byte_level_bpe, tmp_path):
    model = make_gpt()
    assert validation_figures(tmp_path, model, byte_level_bpe) is None
    assert validation_figures(write_run(tmp_path, train="a"), model, byte_level_bpe) is None
