"""Text generation; importing this gives `GPTCausalLM` its `generate`."""

from typing import Any

from kerasllm.models.gpt.tasks import GPTCausalLM, install_generation


def generate(model: GPTCausalLM, prompts: Any, **settings: Any) -> Any:
    """Continues prompts, see `kerasllm.generation.continuation.generate`, which is loaded at the first call."""
    from kerasllm.generation import continuation

    return continuation.generate(model, prompts, **settings)


install_generation(generate)

__all__ = ["generate"]
