"""Steps out of batches."""

import pytest

from kerasllm.training.callbacks.step import StepCallback


class Steps(StepCallback):
    """Keeps what it is told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def on_step_end(self, step, values):
        self.seen.append((step, values))


def test_value_of_a_step_is_the_mean_of_its_batches():
    callback = Steps(gradient_accumulation=3, start_step=10)
    for batch, loss in enumerate([1.0, 2.0, 6.0, 4.0, 4.0, 7.0, 9.0]):
        callback.on_train_batch_end(batch, {"loss": loss, "accuracy": loss / 10})
    assert callback.seen == [
        (11, {"loss": 3.0, "accuracy": pytest.approx(0.3)}),
        (12, {"loss": 5.0, "accuracy": pytest.approx(0.5)}),
    ]
    assert callback.step == 12


def test_batches_come_in_order_and_in_the_training_thread(small):
    """None of these callbacks may be handed to Keras' thread pool."""
    import threading

    threads = set()

    class Where(Steps):
        def on_step_end(self, step, values):
            super().on_step_end(step, values)
            threads.add(threading.current_thread())

    callback = Where()
    small.train(small.build(), 0, 20, [callback])
    assert [step for step, _ in callback.seen] == list(range(1, 21))
    assert threads == {threading.main_thread()}


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Steps(gradient_accumulation=0)
