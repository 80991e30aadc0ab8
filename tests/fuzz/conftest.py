"""What all formats share: how a good file is spoilt, and what may come of reading it."""

import copy
import json
import os
import random
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasllm.errors import InputError

EXAMPLES = int(os.environ.get("KERASLLM_FUZZ_EXAMPLES", "100"))
SECONDS, MEBIBYTES = (
    20,
    400,
)  # for one input, on a machine with other work; grown by all inputs of a test together

TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n\n",
        b"\t",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
    ),
    *(
        b"null",
        b"true",
        b"NaN",
        b"-1",
        b"0",
        b"1e999",
        b"99999999999999999999",
        b"9223372036854775807",
        b"\\u0000",
    ),
    *(
        b"\\ud800",
        b"\xed\xa0\x80",
        "\u2028".encode(),
        "中文".encode(),
        b"[" * 3000,
        b'{"a":' * 3000,
        b"a" * 5000,
    ),
    *(
        b"&a [*a]",
        b"&b",
        b"*b",
        b"!!python/object/apply:os.system [ls]",
        b"<<: *b",
        b"---\n",
        b"../../x",
        b"%s",
    ),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        7,
        2**31,
        2**63,
        10**30,
        1.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "a",
    ),
    *(
        "é中",
        "\ud800",
        "../x",
        [],
        {},
        [[]],
        {"": None},
        [None],
        ["a", "b"],
        "x" * 1000,
        [0] * 100,
        {"a": {"b": [1]}},
    ),
]


class Spoiler:
    """Makes bad files of good ones, by a number: the same number makes the same file."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)

    def content(self, good: bytes) -> bytes:
        """Some bytes changed, inserted, taken out, doubled, or cut off; seldom all of them noise."""
        content = bytearray(good)
        if self.random.random() < 0.02:
            return self.random.randbytes(self.random.choice([0, 1, 8, 9, 64, 1000]))
        for _ in range(self.random.choice([1, 1, 1, 2, 3, 8])):
            at = self.random.randrange(len(content) + 1)
            end = min(at + self.random.choice([1, 1, 2, 8, 100]), len(content))
            what = self.random.randrange(6)
            if what == 0 and at < len(content):
                content[at] ^= 1 << self.random.randrange(8)
            elif what == 1:
                del content[at:end]
            elif what == 2:
                content[at:at] = self.random.choice(TOKENS)
            elif what == 3:
                content[at:end] = self.random.choice(TOKENS)
            elif what == 4:
                content[at:at] = content[at:end] * self.random.choice([1, 2, 50])
            elif self.random.random() < 0.3:
                del content[at:]
        return bytes(content)

    def value(self, good):
        """JSON with some of its values put in another's place, taken out, or named otherwise."""
        root = [json.loads(json.dumps(good))]
        for _ in range(self.random.choice([1, 1, 1, 2, 4])):
            places = []
            stack: list = [root]
            while stack:
                holder = stack.pop()
                keys = range(len(holder)) if isinstance(holder, list) else list(holder)
                places += [(holder, key) for key in keys]
                stack += [holder[key] for key in keys if isinstance(holder[key], list | dict)]
            holder, key = self.random.choice(places)
            if self.random.random() < 0.7 or holder is root:
                holder[key] = copy.deepcopy(self.random.choice(VALUES))
            elif isinstance(holder, dict) and self.random.random() < 0.5:
                holder[self.random.choice(["", "type", "a", key + "_"])] = holder.pop(key)
            else:
                del holder[key]
        return root[0]

    def json(self, good: bytes) -> bytes:
        """A file of JSON, spoilt as one or the other."""
        if self.random.random() < 0.4:
            return self.content(good)
        return json.dumps(self.value(json.loads(good))).encode(errors="surrogatepass")

    def lines(self, good: bytes) -> bytes:
        """A file of a JSON value a line, spoilt as one or the other."""
        if self.random.random() < 0.5:
            return self.content(good)
        lines = good.splitlines()
        at = self.random.randrange(len(lines))
        lines[at] = json.dumps(self.value(json.loads(lines[at]))).encode(errors="surrogatepass")
        return b"\n".join(lines) + b"\n"


@pytest.fixture
def fuzz(capsys) -> Callable:
    """Calls `attempt(spoiler)` many times: it returns, or raises our own error, soon and in little memory."""

    def run(attempt: Callable[[Spoiler], object]) -> None:
        outcomes: Counter[str] = Counter()

        def check(number: int) -> None:
            began = time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    attempt(Spoiler(number))
                outcomes["read"] += 1
            except InputError as error:
                assert str(error).strip()
                outcomes["refused"] += 1
            assert time.process_time() - began < SECONDS, f"{number} takes too long"

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        given(st.integers(0, 2**62))(
            settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )(check)
        )()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert outcomes.total() >= EXAMPLES and grown < MEBIBYTES, f"{outcomes}, {grown:.0f} MiB"
        if EXAMPLES > 100:
            with capsys.disabled():
                print(
                    f"\n{attempt.__name__}: {dict(outcomes)}, memory grown by {grown:.0f} MiB",
                    file=sys.stderr,
                )

    return run
