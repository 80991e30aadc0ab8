"""One server for all tests of a file, in this process, with a tiny model for each task."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from functools import partial

import pytest

import kerasllm
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.parallel import train_joint_tokenizer

TEXTS = [
    "the ship left the harbor at dawn",
    "ann sings in rome",
    "What is it? A ship! User: Assistant: \n",
] * 3


def predictors():
    """Untrained models with their tokenizers, by name."""
    words = kerasllm.train_wordpiece(TEXTS, vocabulary_size=60)
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "initializer_range": 0.5}
    bert = kerasllm.BertConfig(vocabulary_size=60, max_sequence_length=32, **shape)
    made = {
        "classifier": kerasllm.BertClassifier(bert, label_names=["bad", "good"], seed=0),
        "tagger": kerasllm.BertTokenClassifier(bert, label_names=["O", "B-P", "I-P"], seed=0),
        "reader": kerasllm.BertQuestionAnswering(bert, seed=0),
        "masked": kerasllm.BertMaskedLM(bert, seed=0),
        "encoder": kerasllm.BertEncoder(bert, seed=0),
    }
    found = {name: kerasllm.Predictor(model, words) for name, model in made.items()}
    characters = kerasllm.train_characters([*TEXTS, "\n".join(map(chr, range(32, 127))) + "éß"])
    gpt = kerasllm.GPTConfig(vocabulary_size=characters.get_vocab_size(), max_sequence_length=96, **shape)
    found["gpt"] = kerasllm.Predictor(kerasllm.GPTCausalLM(gpt, seed=0), characters)
    pairs = train_joint_tokenizer(TEXTS, 280)
    seq2seq = kerasllm.Seq2SeqConfig(
        vocabulary_size=pairs.get_vocab_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=16,
        pad_token_id=pairs.token_to_id("<pad>"),
        end_token_id=pairs.token_to_id("</s>"),
    )
    found["translator"] = kerasllm.Predictor(kerasllm.Seq2SeqLM(seq2seq, seed=0), pairs)
    return found


@contextlib.contextmanager
def serving(context):
    """Serves a context in a thread on a free port, and yields its address."""
    import uvicorn

    from kerasllm.serving.application import application
    from kerasllm.serving.server import bind

    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(application(context), log_level="error", lifespan="off", timeout_keep_alive=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        server.force_exit = True  # a connection whose client nobody has closed would keep it waiting for ever
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def models():
    """The served models by name, started without compiling what no test asks for."""
    from kerasllm.serving.served import ServedModel

    found = {}
    for name, predictor in predictors().items():
        found[name] = ServedModel(name, predictor, DEFAULT_CHAT_TEMPLATE if name == "gpt" else None)
        found[name].start(slots=3, batch_size=2, queue_length=4, is_compiled=False)
    yield found
    for model in found.values():
        model.close()


@pytest.fixture(scope="session")
def context(models):
    from kerasllm.serving.context import Context, Limits

    return Context(models, Limits(max_tokens=64, max_kilobytes=4, seconds=120.0))


@pytest.fixture(scope="session")
def address(context):
    with serving(context) as found:
        yield found


@pytest.fixture(scope="session", name="serving")
def serving_fixture():
    """`serving` for a test."""
    return serving


def call(address, path, body=None, raw=None, **headers):
    """Posts JSON, or gets a path, and returns status, JSON or text, and headers."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data)
    for name, value in ({"Content-Type": "application/json"} | headers).items():
        request.add_header(name.replace("_", "-"), value)
    try:
        response = urllib.request.urlopen(request, timeout=120)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read().decode()
        is_json = "json" in response.headers["Content-Type"]
        return response.status, json.loads(text) if is_json else text, response.headers


@pytest.fixture(scope="session")
def ask_at():
    """`call` for a test."""
    return call


@pytest.fixture(scope="session")
def ask(address):
    """`call` of the server of all tests."""
    return partial(call, address)
