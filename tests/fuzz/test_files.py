"""Every file that a user hands over, spoilt in a hundred ways: it is read, or refused in our own words.

`KERASLLM_FUZZ_EXAMPLES=10000` makes it ten thousand ways; `tox run -e fuzz` does.
"""

import hashlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from kerasllm import BertBackbone, BertConfig, GPTCausalLM, GPTConfig
from kerasllm.checkpoints import write_model
from kerasllm.cli import parse, settings
from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.examples.questions import encode_questions
from kerasllm.data.sources.conversations import read_conversations
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.documents import read_documents, read_queries
from kerasllm.data.sources.judgements import read_judgements, read_run
from kerasllm.data.sources.labelled import read_labelled
from kerasllm.data.sources.pairs import read_groups
from kerasllm.data.sources.parallel import read_parallel
from kerasllm.data.sources.squad import read_questions
from kerasllm.data.sources.tagged import read_tagged
from kerasllm.models.bert.sentence_transformers import read_modules
from kerasllm.models.registry import check_checkpoint, read_settings
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE, render
from kerasllm.tokenizers.encoding import encode, vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece
from kerasllm.training.callbacks.checkpoint import Checkpoint, restore
from kerasllm.training.callbacks.metrics_log import MetricsLog, read_metrics
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.state.random_states import set_random_states
from kerasllm.training.state.training_state import checksum

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The cat sat on the mat. Dr. Smith said: “it’s 3.5 kg!”\nA second line, café.\n\n中文句子。再来一句！\n\nEnd\n"
ROWS = [("A good film, truly", "pos"), ('a "bad" one', "neg"), ("plain", "pos"), ("é 中", "neg")]


def jsonl(*records) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def content_of(file: bytes) -> str | bytes:
    """JSON as it is read, whatever its spaces and line ends; what is none as it stands."""
    try:
        return json.dumps(json.loads(file))
    except (ValueError, RecursionError):
        return file


def test_text_corpora(fuzz, tmp_path):
    def text_corpus(spoiler):
        file = tmp_path / "corpus.txt"
        file.write_bytes(spoiler.content(TEXT.encode()))
        corpus = Corpus([file])
        corpus.fingerprint()
        if spoiler.random.random() < 0.5:
            list(corpus.documents())
        else:
            list(corpus.raw_pieces())

    fuzz(text_corpus)


def test_jsonl_corpora(fuzz, tmp_path):
    good = jsonl({"text": TEXT}, {"text": "short", "id": 3}, {"text": "", "more": [1]})

    def jsonl_corpus(spoiler):
        file = tmp_path / "corpus.jsonl"
        file.write_bytes(spoiler.lines(good))
        list(Corpus([file]).documents())

    fuzz(jsonl_corpus)


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_tables(fuzz, tmp_path, suffix):
    good = {
        "tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
        "csv": "text,label\n" + "".join('"' + t.replace('"', '""') + f'",{label}\n' for t, label in ROWS),
        "jsonl": jsonl(*({"text": text, "label": label} for text, label in ROWS)).decode(),
    }[suffix].encode()

    def table(spoiler):
        file = tmp_path / f"table.{suffix}"
        file.write_bytes(spoiler.lines(good) if suffix == "jsonl" else spoiler.content(good))
        columns = spoiler.random.choice([None, None, "text", "0", "0,1", "label"])
        read_labelled(str(file), columns, spoiler.random.choice([None, None, "label", "1"]))

    table.__name__ = suffix
    fuzz(table)


def test_pairs(fuzz, tmp_path):
    good = "".join(f"{text}\t{text} again\t{number}.5\n" for number, (text, _) in enumerate(ROWS)).encode()

    def pairs(spoiler):
        file = tmp_path / "pairs.tsv"
        file.write_bytes(spoiler.content(good))
        read_groups(str(file), spoiler.random.choice(["0,1", "0,1,2", "0"]))
        read_groups(str(file), "0,1", "2")

    fuzz(pairs)


def test_tagged_sentences(fuzz, tmp_path):
    goods = [
        b"-DOCSTART- O\n\nEU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n",
        "# id = 1\n1\tSão\tB-LOC\n2\tPaulo\tI-LOC\n\t\n1\t中\tO\r\n".encode(),
        jsonl({"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}, {"tokens": [], "ner_tags": []}),
        jsonl({"text": "EU rejects é", "spans": [{"start": 0, "end": 2, "label": "ORG"}, [11, 12, "X"]]}),
    ]

    def tagged(spoiler):
        number = spoiler.random.randrange(4)
        file = tmp_path / ("tags.conll" if number < 2 else "tags.jsonl")
        file.write_bytes(spoiler.content(goods[number]) if number < 2 else spoiler.lines(goods[number]))
        columns = spoiler.random.choice([(None, None), (0, 1), (1, 2), (0, -1)]) if number < 2 else ()
        read_tagged(
            str(file),
            *columns,
            scheme=spoiler.random.choice(["auto", "IOB2", "BIOES", "none"]),
            label_names=spoiler.random.choice([None, None, ["O", "B-ORG", "I-ORG"]]),
            split_words=lambda text: [(0, len(text))] if text else [],
        )

    fuzz(tagged)


def test_parallel_texts(fuzz, tmp_path):
    good = b"A red cat.\n\n Zwei Hunde \nlast"

    def parallel(spoiler):
        files = [tmp_path / "train.en", tmp_path / "train.de"]
        for file in files:
            file.write_bytes(spoiler.content(good) if spoiler.random.random() < 0.7 else good)
        read_parallel([str(file) for file in files], keep_empty=spoiler.random.random() < 0.5)

    fuzz(parallel)


def test_documents_and_judgements(fuzz, tmp_path):
    goods = [
        b".I 1\n.T\na title\n.W\na title\nand text\n.I 2\n.W\nmore\n",
        b"<DOC>\n<DOCNO> a </DOCNO>\n<TEXT>\nsome <b>text</b>\n</TEXT>\n</DOC>\n<top><num>3<title>x</top>",
        b"id\ttext\n1\tone\n2\ttwo\ttitle\n",
        jsonl({"id": "1", "text": "one", "title": "t"}, {"_id": 2, "text": "two"}),
    ]
    lists = [
        b"1 0 a 2\n1 0 b -1\r\n2 0 a 0\n",
        b"1 184 2 \r\n1 29 -1\r\n",
        b"query-id\tcorpus-id\tscore\nq\td\t1\n",
    ]
    results = b"1 Q0 a 1 2.5 x\n1 Q0 b 2 1e-3 x\n"

    def documents(spoiler):
        number = spoiler.random.randrange(4)
        file = tmp_path / ("documents.jsonl" if number == 3 else "documents")
        file.write_bytes(spoiler.lines(goods[3]) if number == 3 else spoiler.content(goods[number]))
        read_documents(file)
        read_queries(file)

    def judgements(spoiler):
        file = tmp_path / "list"
        file.write_bytes(spoiler.content(spoiler.random.choice(lists)))
        read_judgements(str(file))
        file.write_bytes(spoiler.content(results))
        read_run(str(file))

    fuzz(documents)
    fuzz(judgements)


def test_modules_of_sentence_transformers(fuzz, tmp_path):
    goods = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(
                [
                    ("Transformer", ""),
                    ("Pooling", "1_Pooling"),
                    ("Dense", "2_Dense"),
                    ("Normalize", "3_Normalize"),
                ]
            )
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 8, "out_features": 3, "bias": True},
        "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
    }
    for name in ("1_Pooling", "2_Dense"):
        (tmp_path / name).mkdir()

    def modules(spoiler):
        spoilt = spoiler.random.choice(list(goods))
        for name, content in goods.items():
            good = json.dumps(content).encode()
            (tmp_path / name).write_bytes(spoiler.json(good) if name == spoilt else good)
        read_modules(tmp_path, 8, 16)

    fuzz(modules)


def test_conversations(fuzz, tmp_path):
    tokenizer = train_byte_level_bpe([TEXT * 5], 300)
    turns = [{"role": role, "content": f"I am the {role}."} for role in ("system", "user", "assistant")]
    good = jsonl({"messages": turns}, {"prompt": "2 + 2", "completion": " 4"}, {"messages": turns[1:] * 2})

    def conversations(spoiler):
        file = tmp_path / "chats.jsonl"
        file.write_bytes(spoiler.lines(good))
        encode_conversations(read_conversations(file), tokenizer, DEFAULT_CHAT_TEMPLATE)

    fuzz(conversations)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_questions(fuzz, tmp_path, suffix):
    tokenizer = train_wordpiece([TEXT * 2], 80)
    asked = [
        {"id": f"q{at}", "question": "Who sat?", "answers": [{"text": text, "answer_start": at}]}
        for text, at in (("The cat", 0), ("mat", 15), ("café", TEXT.index("café")), ("kg", 4))
    ]
    asked.append({"id": "none", "question": "Who ran?", "answers": [], "is_impossible": True})
    nested = {"version": "2.0", "data": [{"title": "", "paragraphs": [{"context": TEXT, "qas": asked}]}]}
    good = (
        json.dumps(nested).encode() if suffix == "json" else jsonl(*({**q, "context": TEXT} for q in asked))
    )

    def questions(spoiler):
        file = tmp_path / f"questions.{suffix}"
        file.write_bytes(spoiler.json(good) if suffix == "json" else spoiler.lines(good))
        found = read_questions(str(file), strict=spoiler.random.random() < 0.3)
        encode_questions(
            tokenizer,
            found.questions,
            found.contexts,
            found.context_of,
            64,
            stride=16,
            spans=found.spans,
            skip_unknown=spoiler.random.random() < 0.5,
        )

    questions.__name__ = suffix
    fuzz(questions)


def test_chat_templates(fuzz):
    messages = [{"role": role, "content": f"I am the {role}."} for role in ("system", "user", "assistant")]
    program = (
        "{% if messages[0].role == 'system' %}{% set first = 1 %}{% else %}{% set first = 0 %}{% endif %}"
    )
    good = (program + DEFAULT_CHAT_TEMPLATE + "{{ messages[first:] | length * 2 + 1 }}{{ 10 // 5 }}").encode()

    def chat_template(spoiler):
        template = spoiler.content(good).decode(errors="replace")
        render(messages, template, end="<end>", add_generation_prompt=spoiler.random.random() < 0.5)

    fuzz(chat_template)


def test_tokenizers(fuzz, tmp_path):
    sentences = [line for line in TEXT.splitlines() if line] * 3
    goods = [
        train_wordpiece(sentences, 100).to_str().encode(),
        train_byte_level_bpe(sentences, 280).to_str().encode(),
        train_characters(sentences).to_str().encode(),
    ]

    def tokenizer(spoiler):
        file = tmp_path / "tokenizer.json"
        file.write_bytes(spoiler.json(spoiler.random.choice(goods)))
        found = load_tokenizer(file)
        vocabulary_size(found)
        encode(found, "The cat sat, é.")

    fuzz(tokenizer)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models of each format, as written."""
    directory = tmp_path_factory.mktemp("models")
    shape = {
        "vocabulary_size": 11,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "max_sequence_length": 8,
    }
    llama = {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
    }
    found = {
        "bert": BertBackbone(BertConfig(**shape), seed=0),
        "gpt2": GPTCausalLM(GPTConfig(**shape), seed=0),
        "llama": GPTCausalLM(GPTConfig(**shape, **llama, use_bias=False), seed=0),
        "own": GPTCausalLM(GPTConfig(**shape, **llama), seed=0),
    }
    for name, model in found.items():
        write_model(model, directory / name)
    return [directory / name for name in found]


def test_model_settings(fuzz, models, tmp_path):
    goods = [(directory / "config.json").read_bytes() for directory in models]
    weights = [(directory / "model.safetensors").read_bytes() for directory in models]

    def config_json(spoiler):
        number = spoiler.random.randrange(len(goods))
        (tmp_path / "config.json").write_bytes(spoiler.json(goods[number]))
        (tmp_path / "model.safetensors").write_bytes(weights[number])
        read_settings(tmp_path)
        check_checkpoint(tmp_path)

    fuzz(config_json)


def test_weights(fuzz, models, tmp_path):
    good = (models[1] / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    index = json.dumps(
        {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "b.safetensors"}}
    ).encode()
    (tmp_path / "config.json").write_bytes((models[1] / "config.json").read_bytes())

    def safetensors(spoiler):
        file = tmp_path / "model.safetensors"
        if spoiler.random.random() < 0.2:
            file.unlink(missing_ok=True)
            (tmp_path / "model.safetensors.index.json").write_bytes(spoiler.json(index))
        elif spoiler.random.random() < 0.3:
            file.write_bytes(spoiler.content(good))
        else:
            header = spoiler.json(good[8:end])
            file.write_bytes(len(header).to_bytes(8, "little") + header + good[end:])
        check_checkpoint(tmp_path)
        if spoiler.random.random() < 0.1:
            GPTCausalLM.from_pretrained(tmp_path)

    fuzz(safetensors)


def test_settings_files(fuzz, tmp_path, monkeypatch):
    # The options' texts, read from the source each time: five sixths of the work, and the same for every file.
    monkeypatch.setattr(settings, "_documentation", cache(settings._documentation))
    spec = importlib.util.spec_from_file_location("fuzzed_recipe", ROOT / "recipes" / "pretrain_gpt.py")
    recipe = importlib.util.module_from_spec(spec)
    sys.modules["fuzzed_recipe"] = recipe
    spec.loader.exec_module(recipe)
    good = (ROOT / "recipes" / "configs" / "pretrain_gpt_shakespeare_cpu.yaml").read_bytes()
    good += b"corpus: [a.txt, b.txt]\nguard: {non_finite: skip}\n"
    laughs = b"e0: &e0 [x, x]\n" + b"".join(
        b"e%d: &e%d [*e%d, *e%d]\n" % (level, level, level - 1, level - 1) for level in range(1, 40)
    )
    circles = b"&x steps: *x\ncorpus: &y [*y]\nmodel: &z {a: *z}\n"
    goods = [good, laughs + b"corpus: *e39\n", laughs + b"steps: *e39\n", circles]

    def yaml_settings(spoiler):
        file = tmp_path / "settings.yaml"
        file.write_bytes(spoiler.content(spoiler.random.choices(goods, [12, 1, 1, 1])[0]))
        parse(recipe.Config, ["--config", str(file), "--output", "run"])

    fuzz(yaml_settings)


def test_run_directories(fuzz, tmp_path):
    recorded = {"steps": 4, "model": {"num_layers": 2}, "output": "run", "versions": {"keras": "3"}}
    good = yaml.safe_dump(recorded).encode()
    lines = jsonl({"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25, "validation_loss": None})
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)

    def run_directory(spoiler):
        (run / "config.yaml").write_bytes(spoiler.content(good))
        (run / "metrics.jsonl").write_bytes(spoiler.lines(lines))
        read_metrics(run / "metrics.jsonl")
        log = MetricsLog(run, total_steps=4, start_step=2)
        log._prepare()
        with RunDirectory.create(run, {"steps": 4, "model": {"num_layers": 2}, "output": "run"}, resume=True):
            pass

    fuzz(run_directory)


def test_checkpoints(fuzz, tmp_path, capsys):
    """Spoilt as they lie, and by somebody who knows to put the checksums right again."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    log = MetricsLog(tmp_path, total_steps=4)
    log._window = {"loss": [3.0, 2]}
    checkpoint = Checkpoint(tmp_path, callbacks=[log])
    checkpoint.set_model(model)
    checkpoint.step = 3
    assert checkpoint.save()
    place = tmp_path / "step-00000003"
    state, arrays = ((place / name).read_bytes() for name in ("state.json", "state.safetensors"))
    end = 8 + int.from_bytes(arrays[:8], "little")

    def checkpoint_files(spoiler):
        new_state, new_arrays = state, arrays
        if spoiler.random.random() < 0.5:
            new_state = spoiler.json(state)
        elif spoiler.random.random() < 0.5:
            new_arrays = spoiler.content(arrays)
        else:
            header = spoiler.json(arrays[8:end])
            new_arrays = len(header).to_bytes(8, "little") + header + arrays[end:]
        signed = spoiler.random.random() < 0.7
        if signed:
            try:
                content = json.loads(new_state)
                content["sha256"] = hashlib.sha256(new_arrays).hexdigest()
                content["checksum"] = checksum(content)
                new_state = json.dumps(content).encode()
            except (ValueError, TypeError, AttributeError, RecursionError):
                signed = False
        (place / "state.json").write_bytes(new_state)
        (place / "state.safetensors").write_bytes(new_arrays)
        before = [np.array(value) for value in model.get_weights()]
        restored = restore(model, tmp_path)
        if not signed and not (new_arrays == arrays and content_of(new_state) == content_of(state)):
            assert restored is None
            assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
        if restored is not None:
            Checkpoint(tmp_path, callbacks=[log], restored=restored)
            set_random_states(restored.random_states)
        capsys.readouterr()

    fuzz(checkpoint_files)
