"""OpenAI's API through OpenAI's own client, against `generate`; clients that leave; a full queue."""

import concurrent.futures
import http.client
import json
import time

import numpy as np
import openai
import pytest


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def expected(models, prompt, seed, new, n=1, **settings):
    """The continuations by `generate`, in which row i is the answer i."""
    predictor = models["gpt"].predictor
    settings = {"temperature": 1.0} | settings
    texts = predictor.model.generate(
        [prompt] * n, tokenizer=predictor.tokenizer, max_new_tokens=new, seed=seed, **settings
    )
    return [text[len(prompt) :] for text in texts]


def test_models(client):
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"classifier", "tagger", "reader", "masked", "encoder", "gpt", "translator"}
    assert client.models.retrieve("gpt").id == "gpt" and listed["gpt"].task == "causal_lm"


def test_completions_are_those_of_generate(client, models):
    settings = {"model": "gpt", "prompt": "the ship", "max_tokens": 12}
    found = client.completions.create(**settings, seed=5, n=3)
    assert [choice.text for choice in found.choices] == expected(models, "the ship", 5, 12, n=3)
    assert [choice.finish_reason for choice in found.choices] == ["length"] * 3
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (8, 36)
    greedy = client.completions.create(**settings, temperature=0, echo=True)
    assert greedy.choices[0].text == "the ship" + expected(models, "the ship", 0, 12, temperature=None)[0]
    several = client.completions.create(model="gpt", prompt=["ann", "rome"], max_tokens=4, temperature=0)
    assert [choice.text for choice in several.choices] == [
        expected(models, prompt, 0, 4, temperature=None)[0] for prompt in ("ann", "rome")
    ]
    ids = models["gpt"].predictor.tokenizer.encode("ann").ids
    by_ids = client.completions.create(model="gpt", prompt=ids, max_tokens=4, temperature=0)
    assert by_ids.choices[0].text == several.choices[0].text
    extra = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.3}
    found = client.completions.create(**settings, seed=2, temperature=0.7, top_p=0.9, extra_body=extra)
    same = expected(models, "the ship", 2, 12, temperature=0.7, top_p=0.9, **extra)
    assert [found.choices[0].text] == same


def test_streams_give_the_same(client, models):
    settings = {"model": "gpt", "prompt": "the ship", "max_tokens": 20, "seed": 5, "n": 2}
    whole = client.completions.create(**settings)
    texts, reasons = ["", ""], [None, None]
    usage = None
    stream = client.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    for event in stream:
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices] and reasons == ["length", "length"]
    assert usage == whole.usage


def test_stop_texts(client, models):
    """The text ends before the stop text, streamed or not, and none of its beginning is shown."""
    (text,) = expected(models, "the ship", 5, 20)
    stop = text[9:12]
    cut = text[: text.index(stop)]
    settings = {"model": "gpt", "prompt": "the ship", "max_tokens": 20, "seed": 5, "stop": [stop, "\x00"]}
    found = client.completions.create(**settings)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (cut, "stop")
    pieces = [event.choices[0] for event in client.completions.create(**settings, stream=True)]
    assert "".join(piece.text for piece in pieces) == cut and pieces[-1].finish_reason == "stop"


def test_log_probabilities(client):
    settings = {"model": "gpt", "prompt": "the ship", "max_tokens": 5, "seed": 1, "logprobs": 3}
    found = client.completions.create(**settings).choices[0]
    assert "".join(found.logprobs.tokens) == found.text
    assert found.logprobs.text_offset == [0, 1, 2, 3, 4]
    for token, value, top in zip(
        found.logprobs.tokens, found.logprobs.token_logprobs, found.logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 3 and value <= max(top.values()) + 1e-6 and top.get(token, value) == value
    streamed = [event.choices[0] for event in client.completions.create(**settings, stream=True)]
    kept = [token for piece in streamed for token in piece.logprobs.tokens]
    offsets = [offset for piece in streamed for offset in piece.logprobs.text_offset]
    assert kept == found.logprobs.tokens and offsets == found.logprobs.text_offset


def test_chat(client, models):
    messages = [{"role": "user", "content": "What is it?"}]
    settings = {"model": "gpt", "messages": messages, "seed": 3, "max_completion_tokens": 10}
    found = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
    (text,) = expected(models, "User: What is it?\nAssistant:", 3, 10)
    assert found.choices[0].message.content == text and found.choices[0].message.role == "assistant"
    content = found.choices[0].logprobs.content
    assert "".join(each.token for each in content) == text and len(content[0].top_logprobs) == 2
    events = list(client.chat.completions.create(**settings, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == text
    assert events[0].choices[0].delta.role == "assistant" and events[-1].choices[0].finish_reason == "length"


def test_one_seed_gives_one_text_whatever_else_is_asked(client):
    """A dozen clients at once, with 3 slots: each gets what it gets alone."""
    asked = [
        {
            "model": "gpt",
            "prompt": prompt,
            "max_tokens": 5 + 3 * number,
            "seed": number,
            "temperature": [0, 0.7, 1.3][number % 3],
            "top_p": [1, 0.8][number % 2],
        }
        for number, prompt in enumerate(["the ship", "a", "rome?", "What is it? A ship!"] * 3)
    ]
    asked = asked[:7]  # 3 run and 4 wait
    alone = [client.completions.create(**each).choices[0].text for each in asked]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        together = pool.map(lambda each: client.completions.create(**each).choices[0].text, asked)
        assert list(together) == alone


def test_a_full_queue(client):
    """More texts than run and wait are refused as a whole, with the time to try again."""
    with pytest.raises(openai.InternalServerError) as raised:
        client.completions.create(model="gpt", prompt="a", max_tokens=40, n=8)
    assert raised.value.status_code == 503 and int(raised.value.response.headers["Retry-After"]) >= 1


def test_errors_of_the_client(client):
    with pytest.raises(openai.NotFoundError, match="no model 'x'"):
        client.completions.create(model="x", prompt="a")
    with pytest.raises(openai.BadRequestError, match="ask it at /classify"):
        client.completions.create(model="classifier", prompt="a")
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="gpt", prompt="a" * 90, max_tokens=10)
    assert raised.value.code == "context_length_exceeded" and "90 tokens and 10" in raised.value.message
    with pytest.raises(openai.BadRequestError, match="at most 64"):
        client.completions.create(model="gpt", prompt="a", max_tokens=65)
    with pytest.raises(openai.UnprocessableEntityError, match="日"):
        client.completions.create(model="gpt", prompt="日")


def test_a_client_that_leaves_frees_its_slot(address, models):
    """Whether it reads a stream, waits for the whole, or waits for a slot."""
    engine = models["gpt"].engine
    host, port = address.removeprefix("http://").split(":")
    body = {"prompt": "a", "max_tokens": 60, "n": 3}
    for stream in (True, False):
        content = json.dumps(body | {"stream": stream})
        connections = []
        for _ in range(2):  # the second one waits
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
            connections.append(connection)
        if stream:
            assert connections[0].getresponse().readline().startswith(b"data: ")
        for connection in connections:
            connection.sock.close()
            connection.close()
        began = time.monotonic()
        while engine.load != (0, 0):
            assert time.monotonic() - began < 30
            time.sleep(0.01)
        assert not any(engine._slots.requests)


def test_embeddings(client, models):
    texts = ["the ship left", "ann sings"]
    expected_vectors = models["encoder"].predictor.predict(texts)
    found = client.embeddings.create(model="encoder", input=texts)  # in base64
    plain = client.embeddings.create(model="encoder", input=texts, encoding_format="float")
    cut = client.embeddings.create(model="encoder", input=texts[0], dimensions=3)
    for one, other, right in zip(found.data, plain.data, expected_vectors, strict=True):
        np.testing.assert_allclose(one.embedding, right["vector"], atol=1e-5)
        np.testing.assert_allclose(other.embedding, right["vector"], atol=1e-5)
    first = np.array(expected_vectors[0]["vector"][:3])
    np.testing.assert_allclose(cut.data[0].embedding, first / np.linalg.norm(first), atol=1e-5)
    assert found.usage.prompt_tokens == sum(map(models["encoder"].count_tokens, [(text,) for text in texts]))
    long = client.embeddings.create(model="encoder", input="ship " * 200)
    assert long.usage.prompt_tokens == models["encoder"].positions
