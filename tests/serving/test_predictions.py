"""The paths of the other tasks against the predictor, the checks that each request passes, and the figures."""

import json
import threading

import pytest

from kerasllm.errors import InputError
from kerasllm.serving.batching import Batcher, QueueFull
from kerasllm.serving.context import Context, Limits


def close(found, expected):
    """Whether predictions are the same but for rounding."""
    if isinstance(expected, dict):
        return set(expected) <= set(found) and all(close(found[name], expected[name]) for name in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else found == expected


def test_predictions(ask, models):
    texts = ["the ship left", "ann sings in rome"]
    for path, name, texts_of_task, body in (
        ("/classify", "classifier", texts, {"input": texts}),
        ("/classify", "classifier", [("the ship", "ann")], {"input": [["the ship", "ann"]]}),
        ("/tag", "tagger", texts, {"input": texts, "model": "tagger"}),
        ("/fill-mask", "masked", ["the [MASK] left"], {"input": "the [MASK] left", "top_k": 5}),
        ("/answer", "reader", [("ann", texts[0])], {"question": "ann", "context": texts[0]}),
        ("/translate", "translator", texts[:1], {"input": texts[0]}),
    ):
        expected = models[name].predictor.predict(texts_of_task, probabilities=True)
        status, found, _ = ask(path, body)
        assert status == 200, found
        assert close(found["data"], expected), path
        assert found["model"] == name and found["usage"]["prompt_tokens"] > 0


def test_what_is_refused(ask):
    """Each wrong request gets OpenAI's form of an error, which names the field."""
    for status, parameter, path, body in (
        (400, "max_tokns", "/v1/completions", {"max_tokns": 3}),
        (400, "temperature", "/v1/completions", {"temperature": -1}),
        (400, "temperature", "/v1/completions", {"temperature": True}),
        (400, "n", "/v1/completions", {"n": 10**400}),
        (400, "prompt", "/v1/completions", {"prompt": [[]]}),
        (400, "prompt", "/v1/completions", {"prompt": [10**9]}),
        (400, "stop", "/v1/completions", {"stop": ""}),
        (400, "logit_bias", "/v1/completions", {"logit_bias": {"5": 3}}),
        (400, "echo", "/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1}),
        (400, "messages", "/v1/chat/completions", {}),
        (400, "messages", "/v1/chat/completions", {"messages": [{"role": "pope", "content": "a"}]}),
        (
            400,
            "tools",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "tools": [{}]},
        ),
        (400, "input", "/classify", {"input": [" "]}),
        (400, "input", "/classify", {"input": "\ud800"}),
        (400, "context", "/answer", {"question": "a", "context": ""}),
        (400, "dimensions", "/v1/embeddings", {"input": "a", "dimensions": 9}),
        (422, None, "/v1/embeddings", {"input": "a", "input_type": "poem"}),
        (422, None, "/fill-mask", {"input": "the ship"}),
        (400, "max_tokens", "/v1/completions", {"prompt": "a", "max_tokens": 10**30}),
        (
            *(400, "max_completion_tokens", "/v1/chat/completions"),
            {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 65},
        ),
        (404, "model", "/tag", {"input": "a", "model": "nobody"}),
        (400, "model", "/tag", {"input": "a", "model": "gpt"}),
    ):
        found_status, found, _ = ask(path, body)
        assert (found_status, found["error"]["param"]) == (status, parameter), found
        assert found["error"]["message"] and set(found["error"]) == {"message", "type", "param", "code"}


def test_unknown_fields_are_told_the_right_one(ask):
    """The nearest one, otherwise the one that is missing, otherwise all."""
    for path, body, mend in (
        ("/classify", {"text": "a"}, "there is no field 'text': did you mean input?"),
        ("/v1/chat/completions", {"prompt": "a"}, "there is no field 'prompt': did you mean messages?"),
        ("/v1/completions", {"max_tokns": 3}, "there is no field 'max_tokns': did you mean max_tokens?"),
        ("/classify", {"input": "a", "text": "b"}, "there is no field 'text'; there are model, input"),
    ):
        status, found, _ = ask(path, body)
        assert (status, found["error"]["message"]) == (400, mend)


def test_models_are_listed_with_the_limit(ask):
    """The limit of new tokens that the page's slider has is that of the server."""
    listed = ask("/v1/models")[1]["data"]
    assert {model["max_tokens"] for model in listed} == {64}
    assert ask("/v1/models/gpt")[1] == next(model for model in listed if model["id"] == "gpt")


def test_bodies_that_are_none(ask):
    for raw in (b"", b"{", b"[]", b'{"input": NaN}', b"\xff", b"[" * 3000):
        status, found, _ = ask("/classify", raw=raw)
        assert status == 400 and found["error"]["message"]
    assert ask("/classify", raw=b"{}", Content_Type="text/plain")[0] == 400
    assert ask("/classify", raw=json.dumps({"input": "a" * 5000}).encode())[0] == 413
    assert ask("/nothing")[0] == 404 and ask("/classify")[0] == 405


def test_health_figures_and_description(ask):
    assert ask("/health")[1]["status"] == "ok"
    _, text, headers = ask("/metrics")
    assert 'kerasllm_requests_total{path="/health",status="200"}' in text
    assert 'kerasllm_running{model="gpt"} 0.0' in text and headers["X-Content-Type-Options"] == "nosniff"
    _, described, _ = ask("/openapi.json")
    schema = described["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["input"] and described["openapi"].startswith("3.1")


def test_the_page_may_load_nothing_else(ask):
    _, page, headers = ask("/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "sha256-" in policy
    assert not any(mark in page for mark in (' src="', "@import", "url(", "https://", " style=", " onclick="))


def test_keys_and_clients_with_too_much_open(models, ask_at, serving):
    context = Context(models, Limits(client_requests=1, seconds=120.0), api_key="secret")
    with serving(context) as address:
        assert ask_at(address, "/health")[0] == 200 and ask_at(address, "/")[0] == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            status, found, answered = ask_at(address, "/v1/models", **headers)
            assert status == 401 and answered["WWW-Authenticate"] == "Bearer" and found["error"]["code"]
        key = {"Authorization": "Bearer secret"}
        assert ask_at(address, "/v1/models", **key)[0] == 200
        body = {"prompt": "a", "max_tokens": 60, "n": 3}
        statuses = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(ask_at(address, "/v1/completions", body, **key)[0])
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 429} and 200 in statuses and 429 in statuses


def test_other_names_of_the_server(models, ask_at, serving):
    """A page of another site, whose name leads here, gets nothing."""
    with serving(Context(models, hosts={"localhost"})) as address:
        assert ask_at(address, "/v1/models")[0] == 200
        assert ask_at(address, "/v1/models", Host="localhost:8000")[0] == 200
        assert ask_at(address, "/v1/models", Host="evil.example")[0] == 400


def test_an_answer_that_takes_too_long(models, ask_at, serving):
    with serving(Context(models, Limits(seconds=1e-6))) as address:
        assert ask_at(address, "/v1/completions", {"prompt": "a"})[0] == 503
        assert ask_at(address, "/classify", {"input": "a"})[0] == 503


def test_batches():
    """What arrives while a batch runs is the next one; a wrong item harms its own request alone."""
    batches, gate, begun = [], threading.Event(), threading.Event()

    def work(items, settings):
        batches.append((list(items), settings))
        begun.set()
        gate.wait(30)
        if "wrong" in items:
            raise InputError("it is wrong")
        return [f"{item}!" for item in items]

    batcher = Batcher(work, batch_size=4, queue_length=5)
    first = batcher.submit(["a"], 1)
    assert begun.wait(30)
    others = [batcher.submit(*each) for each in ((["b", "c"], 1), (["d"], 2), (["e"], 1), (["wrong"], 1))]
    left = batcher.submit(["f"], 1)
    with pytest.raises(QueueFull):
        batcher.submit(["g"], 1)
    left.cancel()
    gate.set()
    assert first.result(30) == ["a!"]
    assert [each.result(30) for each in others[:3]] == [["b!", "c!"], ["d!"], ["e!"]]
    with pytest.raises(InputError, match="wrong"):
        others[3].result(30)
    batcher.close()
    assert batches[:2] == [(["a"], 1), (["b", "c", "e", "wrong"], 1)] and (["d"], 2) in batches
    assert not any("f" in items for items, _ in batches)
