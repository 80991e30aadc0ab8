"""The quick start end to end, on documentation made by rule instead of Python's own."""

import json

import numpy as np
import pytest

from kerasllm.data.sources.python_docs import STANDARD_LIBRARY, TOPICS, Document

NOUNS = ["file", "path", "object", "string", "number", "list"]
VERBS = ["returns", "opens", "writes", "reads", "closes", "holds"]


def documents() -> list[Document]:
    """Two large modules for the task `module`, and many small topics for the others."""
    random = np.random.default_rng(0)

    def sentences(count, nouns):
        return tuple(
            f"It {random.choice(VERBS)} the {random.choice(nouns)} and then it {random.choice(VERBS)} "
            f"a {random.choice(nouns)} at step {random.integers(100)}."
            for _ in range(count)
        )

    large = [
        Document("shelf", STANDARD_LIBRARY, sentences(2000, NOUNS[:3])),
        Document("shelf.inner", STANDARD_LIBRARY, sentences(50, NOUNS[:3])),
        Document("crate", STANDARD_LIBRARY, sentences(2000, NOUNS[3:])),
    ]
    return large + [Document(f"topics.{i}", TOPICS, sentences(12, NOUNS[i % 6 :][:1])) for i in range(60)]


TASKS = ["belong_together", "module"]


@pytest.mark.usefixtures("without_xla")
def test_quickstart(recipe, run_recipe, tmp_path, monkeypatch, capsys):
    module = recipe("quickstart")
    monkeypatch.setattr(module, "python_docs", lambda: iter(documents()))
    monkeypatch.setattr(module, "python_docs_fingerprint", lambda: "0" * 64)
    argv = ["--output", tmp_path / "run", "--tasks", *TASKS, "--steps", 12, "--batch_size", 8]
    argv += ["--sequence_length", 32, "--vocabulary_size", 120, "--num_layers", 1, "--hidden_dim", 32]
    argv += ["--train_examples", 128, "--epochs", 6, "--finetune_learning_rates", 1e-3, 1e-2, "--seeds", 2]
    assert run_recipe("quickstart", *argv) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["seconds"] > 0 and results["corpus_sha256"] == "0" * 64
    assert list(results["tasks"]) == TASKS
    for task, arms in results["tasks"].items():
        assert set(arms) == {"pretrained", "scratch"}
        assert all(len(arm) == 2 and all(0 <= accuracy <= 1 for accuracy in arm) for arm in arms.values())
        details = results["details"][task]
        for arm in ("pretrained", "scratch"):
            by_rate = details[arm]["validation_by_learning_rate"]
            assert set(by_rate) == {"0.001", "0.01"}
            assert (
                by_rate[str(details[arm]["learning_rate"])]
                == max(by_rate.values())
                == details[arm]["validation"][0]
            )
            assert details[arm]["test"] == arms[arm]
    assert min(results["tasks"]["module"]["scratch"]) > 0.7  # keywords: anything that trains at all learns it
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("belong together", "module", "from scratch"))
    assert (tmp_path / "run" / "quickstart.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
