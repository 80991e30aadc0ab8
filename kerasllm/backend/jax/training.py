"""Training steps on JAX, which compiles them whole; their products are oneDNN's where they can be."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp

from kerasllm.backend.jax import onednn
from kerasllm.backend.jax.products import by_onednn, can_call_onednn, on_cpu

jit_compile = "auto"


def version() -> str:
    """Returns JAX's version."""
    return jax.__version__


def libraries() -> list[str]:
    """Returns the package of oneDNN if it is there."""
    return [onednn.PACKAGE] if onednn.available() else []


def can_compile() -> bool:
    """Returns True: JAX always compiles."""
    return True


def make_train_function(model, make):
    """Calls `make()`."""
    make()


def loading(batches):
    """Returns the batches, which Keras loads."""
    return batches


def make_function(model, name, make):
    """Calls `make()`."""
    make()


def whole_step(model, train_step, *arguments):
    """Returns the step's results: what is around the step is compiled with it anyway."""
    return train_step(*arguments)


def compiled_step(model, train_step, *arguments):
    """Returns Keras' own step's results, with its products by oneDNN where they can be."""
    with by_onednn() if can_call_onednn(model) else nullcontext():
        return train_step(*arguments)


def in_parts(function, weights, states, parts):
    """Returns the results for the parts of a batch, by a loop whose steps are computed again for the gradient."""
    again = jax.checkpoint(function, prevent_cse=False)  # a loop's steps are not merged anyway

    def step(states, part):
        result, states = again(weights, states, part)
        return states, result

    states, results = jax.lax.scan(step, states, parts)
    return results, states


def recomputed(function, weights, states, inputs):
    """Returns the result and the new states.

    For a CPU, XLA takes the barriers of `jax.checkpoint` out and then merges both computations, so that nothing is
    saved. There the second one begins with inputs that hang on the gradient that comes back.
    """
    if not on_cpu():
        return jax.checkpoint(function)(weights, states, inputs)

    @jax.custom_vjp
    def compute(weights, inputs):
        return function(weights, states, inputs)

    def forward(weights, inputs):
        return compute(weights, inputs), (weights, inputs)

    def backward(kept, upstream):
        weights, inputs = kept
        first = upstream[0].ravel()[0]
        nothing = jnp.where(first == first, 0.0, float("nan"))
        again, later = jax.tree.map(lambda one: one + nothing.astype(one.dtype), (inputs, states))
        gradients_of = jax.vjp(lambda weights, inputs: function(weights, later, inputs)[0], weights, again)[1]
        return gradients_of(upstream[0])

    compute.defvjp(forward, backward)
    return compute(weights, inputs)


def evaluation_step(model, test_step, *arguments):
    """Returns Keras' own step's results, computed as in training."""
    return compiled_step(model, test_step, *arguments)


def per_step_metrics(model, train_step, *arguments):
    """Returns the step's results from fresh states of the metrics, which are a part of its first argument here."""
    (trainable, non_trainable, optimizer, _), data = arguments
    fresh = [value for metric in model.metrics for value in metric.stateless_reset_state()]
    return train_step((trainable, non_trainable, optimizer, fresh), data)


def get_random_state() -> bytes | None:
    """Returns None: JAX has no global generator, its keys live in the model's seed generators."""
    return None


def set_random_state(state: bytes | None) -> None:
    """Restores nothing, see `get_random_state`."""


def check_saved_model(path, inputs):
    """Runs the model once: TensorFlow may be older than JAX and not know its operations, such as the exact GELU's."""
    import tensorflow

    try:
        model = tensorflow.saved_model.load(str(path))
        model.serve(inputs)
    except Exception as error:
        versions = f"TensorFlow {tensorflow.__version__} cannot run what JAX {jax.__version__} wrote"
        raise RuntimeError(f"{versions} ({type(error).__name__})") from error
