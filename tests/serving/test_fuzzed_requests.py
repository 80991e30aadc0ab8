"""Requests of any kind: an answer or an error in OpenAI's form, never a 500, and the server goes on.

`tox run -e fuzz` tries 10,000.
"""

import json
import os
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasllm.serving.application import ENDPOINTS

EXAMPLES = int(os.environ.get("KERASLLM_FUZZ_EXAMPLES", "100"))
STATUSES = {200, 400, 404, 405, 413, 422}

texts = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "a",
            "the ship",
            "[MASK]",
            "the [MASK] left",
            "\x00",
            "😀",
            "\ud800",
            "<|endoftext|>",
            "a" * 200,
        ]
    ),
    st.text(max_size=30),
)
numbers = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([-(10**30), 2**31, 2**63, 10**400, 0.0, 1e-300, 1e308, -0.5, 0.7]),
    st.floats(allow_nan=False, allow_infinity=False),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
    min_size=1,
    max_size=3,
)
GOOD = {
    "prompt": st.one_of(texts, st.lists(st.integers(0, 50), min_size=1, max_size=5)),
    "input": st.one_of(texts, st.lists(texts, min_size=1, max_size=3)),
    "messages": messages,
    "question": texts,
    "context": texts,
    "stop": st.one_of(texts, st.lists(texts, max_size=3)),
    "max_tokens": st.integers(1, 4),
    "max_completion_tokens": st.integers(1, 4),
    "model": st.sampled_from(["gpt", "classifier", "translator", "nobody"]),
}


@st.composite
def requests(draw):
    """A path and a body, most of whose fields are known and some right."""
    path = draw(st.sampled_from(list(ENDPOINTS)))
    fields = ENDPOINTS[path][1]
    names = draw(st.lists(st.sampled_from(list(fields)), unique=True, max_size=6))
    names = {
        *names,
        *(name for name, field in fields.items() if field.is_required and draw(st.integers(0, 7))),
    }
    body = {}
    is_wild = draw(st.booleans())  # else it is likely to be answered
    for name in sorted(names):
        if name in GOOD and not (is_wild and draw(st.booleans())):
            body[name] = draw(GOOD[name])
        elif name == "stream":
            body[name] = draw(st.booleans())
        elif is_wild:
            body[name] = draw(st.one_of(leaves, values))
    if "max_tokens" in fields:
        body.setdefault("max_tokens", 2)
    if is_wild and draw(st.integers(0, 9)) == 0:
        body[draw(texts)] = draw(values)
    raw = json.dumps(body).encode()
    if is_wild and draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(raw)))
        raw = raw[:place] + draw(st.binary(max_size=4)) + raw[place + draw(st.integers(0, 4)) :]
    return path, raw


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(request=requests())
def test_any_request_is_answered(ask, request):
    path, raw = request
    status, found, _ = ask(path, raw=raw)
    assert status in STATUSES, (path, raw, found)
    if status == 200:
        assert isinstance(found, dict) or found.endswith("data: [DONE]\n\n")
        assert "server_error" not in str(found)
    else:
        assert found["error"]["message"] and "Traceback" not in found["error"]["message"]
        assert "\n" not in found["error"]["message"]


def test_rubbish_on_the_wire(address, ask, capfd):
    """What is no HTTP at all is refused by the connection alone."""
    host, port = address.removeprefix("http://").split(":")
    for rubbish in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        b"GET /health HTTP/1.1\r\nHost: [::\r\nConnection: close\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: [::\r\nConnection: close\r\n\r\n",
        b"GET /%00%ff/../.. HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                assert b"Traceback" not in part and b" 500 " not in part
    assert ask("/health")[0] == 200
    assert "Traceback" not in capfd.readouterr().err
