"""Items made ahead: the same ones, once, and no thread that stays."""

import threading
import time

import pytest

from kerasllm.data.batches import prefetch
from kerasllm.data.batches.prefetch import Prefetcher


@pytest.fixture
def worth_a_thread(monkeypatch):
    """As if the items below took long to make."""
    monkeypatch.setattr(prefetch, "_WORTH_A_THREAD", 0.0)


def left_after_a_while():
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        threads = [thread for thread in threading.enumerate() if thread.name == "kerasllm-prefetch"]
        if not threads:
            break
        time.sleep(0.01)
    return threads


def test_a_failure_is_raised_where_the_item_is_asked_for_and_may_pass():
    fails = [True]

    def make(number):
        if number == 2 and fails:
            raise OSError("the disk is gone")
        return number * number

    ahead = Prefetcher(make, depth=3, stop=5)
    assert [ahead.get(0), ahead.get(1)] == [0, 1]
    assert not left_after_a_while()
    with pytest.raises(OSError, match="disk"):
        ahead.get(2)
    fails.clear()
    assert [ahead.get(number) for number in (2, 3, 4, 0)] == [4, 9, 16, 0]
    assert not left_after_a_while()


def recorded():
    """What was made, and whether by the thread that asks here; and what makes it."""
    made, main = [], threading.get_ident()

    def make(number):
        made.append((number, threading.get_ident() == main))
        return number

    return made, make


def test_items_are_made_once_and_none_behind_the_end(worth_a_thread):
    made, make = recorded()
    ahead = Prefetcher(make, depth=2, stop=6)
    for number in range(6):
        assert ahead.get(number) == number
    assert sorted(number for number, _ in made) == list(range(6))
    assert [number for number, here in made if here] == [0]


def test_a_thread_is_started_for_several_items(worth_a_thread, monkeypatch):
    started = []

    class Counted(threading.Thread):
        def start(self):
            started.append(self)
            super().start()

    monkeypatch.setattr(threading, "Thread", Counted)
    made, make = recorded()
    ahead = Prefetcher(make, depth=8, stop=40)
    for number in range(40):
        assert ahead.get(number) == number
        assert not left_after_a_while()  # a step that takes longer than the items
    assert sorted(made) == [(number, number == 0) for number in range(40)]
    assert len(started) <= 9


def test_no_thread_is_started_for_what_takes_no_time(monkeypatch):
    monkeypatch.setattr(prefetch, "_WORTH_A_THREAD", 60.0)
    made, make = recorded()
    ahead = Prefetcher(make, depth=8, stop=40)
    ahead._seconds = 0.0  # known of the items before
    assert [ahead.get(number) for number in (*range(40), 39, 3)] == [*range(40), 39, 3]
    # The last stays; one from far back is made again.
    assert made == [(number, True) for number in (*range(40), 3)]


def test_a_thread_comes_back_when_items_take_long(monkeypatch):
    monkeypatch.setattr(prefetch, "_WORTH_A_THREAD", 0.02)
    made, record = recorded()

    def make(number):
        time.sleep(0.05 if number >= 2 else 0)
        return record(number)

    ahead = Prefetcher(make, depth=2, stop=8)
    ahead._seconds = 0.0
    assert [ahead.get(number) for number in range(8)] == list(range(8))
    assert [number for number, here in made if here][:3] == [0, 1, 2]
    assert {number for number, here in made if not here} >= {4, 5, 6, 7}
    assert sorted(number for number, _ in made) == list(range(8))
