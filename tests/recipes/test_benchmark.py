"""The benchmark end to end on tiny shapes: every contender that is installed, in processes as for a user."""

import json
import random
from importlib import import_module
from importlib.util import find_spec

import keras
import pytest

TINY = {
    **{"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "vocabulary_size": 60},
    **{"length": 16, "batch_size": 2},
}


@pytest.fixture
def benchmark(recipe, monkeypatch):
    """The recipe's module with tiny works; its parts can be imported by their names."""
    module = recipe("benchmark")
    works = {
        "bert": [{**TINY, "slots": 3, "dropout": 0.1}],
        "packing": [{**TINY, "length": 128}],
        "gpt": [TINY],
        "shakespeare": [TINY],
        "translation": [{**TINY, "intermediate_dim": 16, "dropout": 0.1, "batch_tokens": 64}],
        "recurrent": [{**TINY, "embedding_dim": 8, "cell": "gru"}],
        "host": [TINY],
        "generation": [{**TINY, "new_tokens": 3}],
        "input": [
            {"kind": kind, "length": 16, "batch_size": 2, "processes": 2, "megabytes": 0.1}
            for kind in ("pairs", "windows")
        ],
    }
    monkeypatch.setattr(module, "WORKS", works)
    monkeypatch.setattr(import_module("works"), "WORKS", works)
    monkeypatch.setattr(module, "STEPS", {})
    return module


def test_ours_and_a_plain_loop_end_to_end(benchmark, run_recipe, tmp_path, capsys):
    backend = keras.backend.backend()
    argv = ["--output", tmp_path / "out", "--work", "shakespeare", "--backends", backend, "--repeats", 1]
    assert run_recipe("benchmark", *argv, "--steps", 3) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["settings"]["repeats"] == 1 and report["machine"]["cores"] >= 1
    peers = [case["peer"] for case in report["cases"]]
    assert peers == ["kerasllm"] + (["torch_loop"] if backend == "torch" else [])
    for case in report["cases"]:
        speed = case["tokens_per_second"]
        assert 0 < speed["lowest"] <= speed["median"] <= speed["greatest"]
        assert len(case["runs"]) == 1 and all(run["tokens"] == 32 for run in case["runs"])
        assert case["mfu"] == pytest.approx(case["flops_per_second"] / case["peak_flops"])
        assert case["flops_per_second"] == pytest.approx(
            speed["median"] * report["cases"][0]["runs"][0]["flops_per_token"]
        )
        assert case["peak_bytes"] > 1e8 and case["first_seconds"] > 0
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "kerasllm" in shown and ("x plain PyTorch" in shown) == (backend == "torch")
    assert run_recipe("benchmark", *argv) == 2
    assert "benchmark.json is there already" in capsys.readouterr().err


@pytest.fixture
def in_this_process(benchmark, monkeypatch):
    """Starting a process for each measurement, and compiling in it, takes as long as a hundred of tiny steps."""
    figures_of = import_module("one_case").figures_of
    monkeypatch.setattr(benchmark, "run_case", lambda *case: json.loads(json.dumps(figures_of(*case))))


@pytest.mark.usefixtures("uncompiled", "in_this_process")
def test_packed_and_padded(benchmark, run_recipe, tmp_path, capsys):
    backend = keras.backend.backend()
    argv = ["--output", tmp_path / "out", "--work", "packing", "--backends", backend, "--repeats", 1]
    assert run_recipe("benchmark", *argv, "--steps", 2) == 0
    cases = json.loads((tmp_path / "out" / "benchmark.json").read_text())["cases"]
    assert [case["peer"] for case in cases] == ["kerasllm", "kerasllm_padded"]
    packed, padded = (case["runs"][0]["tokens"] for case in cases)
    assert 1.8 * padded < packed <= 2 * 128  # real tokens of a step
    assert "x padded rows" in capsys.readouterr().out


def test_contenders_take_turns_and_the_median_counts(benchmark, monkeypatch):
    asked, seconds = [], iter([1.0, 9.0, 4.0, 9.0, 2.0, 8.0])

    def run_case(case, steps):
        asked.append((case.peer, steps))
        figures = {"tokens": 8.0, "step_seconds": next(seconds), "first_seconds": 1.0, "peak_bytes": 5}
        peak = {"kerasllm": 48.0, "keras_hub": 64.0}[case.peer]  # the same backend's: the higher one counts
        return figures | {"peak_flops": peak, "flops_per_token": 4.0, "versions": {}}

    monkeypatch.setattr(benchmark, "run_case", run_case)
    names = ("kerasllm", "keras_hub")
    contenders = [benchmark.Case("gpt", name, "jax", "float32", benchmark.WORKS["gpt"][0]) for name in names]
    ours, other = benchmark.measure(contenders, repeats=3, steps=8)
    assert asked == [(name, 8) for name in names] * 3
    assert ours["tokens_per_second"] == {"median": 4.0, "lowest": 2.0, "greatest": 8.0}
    assert ours["mfu"] == 4.0 * 4.0 / 64.0 and other["mfu"] == 8 / 9 * 4.0 / 64.0
    assert other["tokens_per_second"]["median"] == 8 / 9


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("peer", ["kerasllm", "kerasllm_callbacks"])
def test_the_time_around_the_arithmetic(peer, benchmark, capsys):
    case = benchmark.Case("host", peer, keras.backend.backend(), "float32", benchmark.WORKS["host"][0])
    figures = import_module("one_case").figures_of(case, steps=10)
    assert 0 < figures["step_seconds"] < figures["first_seconds"] and figures["tokens"] == 32
    assert len(figures["largest"]) == 10 and figures["largest"][0][1] >= figures["largest"][9][1] > 0
    lines = list(
        import_module("benchmark_report").profiles(
            [{**case._asdict(), "runs": [figures]}, {**case._asdict(), "runs": [{}]}]
        )
    )
    assert len(lines) == 11 and figures["largest"][0][0] in lines[1]


@pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is missing")
def test_the_time_around_a_plain_step(benchmark):
    case = benchmark.Case("host", "torch_loop", "torch", "float32", benchmark.WORKS["host"][0])
    figures = benchmark.run_case(case, 10)
    assert figures["step_seconds"] > 0 and len(figures["largest"]) == 10


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("work", ["bert", "gpt", "generation"])
def test_each_of_our_measurements(work, benchmark):
    """In this process, where TensorFlow needs no compilation."""
    peer = "kerasllm_all_logits" if work == "gpt" else "kerasllm"
    case = benchmark.Case(work, peer, keras.backend.backend(), "float32", benchmark.WORKS[work][0])
    figures = import_module("one_case").figures_of(case, steps=2)
    assert figures["step_seconds"] > 0 and figures["peak_bytes"] > 1e8
    if work == "generation":
        assert figures["tokens"] == 2 * 3
    else:
        # BERT's only block makes keys and values of all tokens, and the rest of those that are read.
        weights = 2 if work == "bert" else 12
        assert 0 < figures["tokens"] <= 32 and figures["flops_per_token"] > 6 * weights * 16 * 16


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("work", "peer"),
    [
        ("translation", "kerasllm"),
        ("translation", "transformers"),
        ("translation", "torch_loop"),
        ("recurrent", "kerasllm"),
        ("recurrent", "keras"),
        ("recurrent", "torch_loop"),
    ],
)
def test_encoder_decoders_and_recurrent_models(work, peer, benchmark):
    """All contenders train on as many tokens; each side of a pair is 4 to 40 tokens long, and none is padding."""
    needed = import_module("works").NEEDS.get(peer, ())
    if not all(map(find_spec, needed)):
        pytest.skip(f"{' or '.join(needed)} is missing")
    case = benchmark.Case(work, peer, keras.backend.backend(), "float32", benchmark.WORKS[work][0])
    figures = import_module(f"{work}_case").measure(case, 4)
    assert figures["step_seconds"] > 0 and figures["versions"]
    if work == "recurrent":
        assert figures["tokens"] == 32
    else:
        assert 60 < figures["tokens"] <= 2 * 64


@pytest.fixture
def input_files(benchmark, corpus, tmp_path):
    """What the input's shapes are completed with, tokenizers made already."""
    benchmark.prepare(tmp_path / "input", str(corpus), 0.1)
    return {"directory": str(tmp_path / "input"), "text": str(corpus)}


@pytest.mark.parametrize("number", [0, 1])
def test_our_input(number, benchmark, input_files, corpus):
    shape = benchmark.WORKS["input"][number] | input_files
    case = benchmark.Case("input", "kerasllm", keras.backend.backend(), "float32", shape)
    figures = import_module("one_case").figures_of(case, steps=1)
    assert figures["text_bytes"] == corpus.stat().st_size
    assert list(figures["stages"]) == ["tokenize", "batches"] and figures["tokens"] > 1000
    assert figures["step_seconds"] == pytest.approx(sum(figures["stages"].values()))
    assert 0 < figures["first_seconds"] <= figures["step_seconds"]


def test_a_text_is_made_of_all_documents(benchmark, tmp_path, monkeypatch):
    documents = [["One.", "Two.", "Three."], ["Four."]]
    monkeypatch.setattr("kerasllm.data.sources.corpus.Corpus.documents", lambda self: iter(documents))
    benchmark.prepare(tmp_path, "", 1e-4)
    text = (tmp_path / "text.txt").read_text()
    assert 100 <= len(text) < 200
    counts = {document.count("T") for document in text.strip().split("\n\n")}
    assert counts == {0, 2} and text.count("Four.") == text.count("Two.")


@pytest.mark.usefixtures("benchmark")
def test_pairs_of_the_peer_follow_the_paper():
    """Segments from one document or from two, half and half; the row is never too long."""
    documents = [[[number] * length for length in (3, 4, 5, 2, 6, 4)] for number in range(4)]
    document_pairs = import_module("input_by_datasets").document_pairs
    made = []
    for number in range(4):
        for seed in range(50):
            made += document_pairs(documents, number, 12, random.Random(seed))
    assert all(len(first) + len(second) <= 12 and first and second for first, second, _ in made)
    assert all((first[0] != second[0]) == label for first, second, label in made)
    assert 0.4 < sum(label for *_, label in made) / len(made) < 0.6


@pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "datasets"))),
    reason="transformers or datasets is missing",
)
@pytest.mark.parametrize("number", [0, 1])
def test_input_by_datasets(number, benchmark, input_files):
    shape = benchmark.WORKS["input"][number] | input_files
    case = benchmark.Case("input", "datasets", keras.backend.backend(), "float32", shape)
    figures = benchmark.run_case(case, 1)
    assert figures["tokens"] > 500 and set(figures["versions"]) == {"datasets", "transformers"}
    assert list(figures["stages"]) == ["load", "tokenize", ("pairs", "blocks")[number], "batches"]


@pytest.mark.skipif(
    keras.backend.backend() != "torch" or not find_spec("transformers"), reason="transformers is missing"
)
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("work", ["bert", "generation"])
def test_transformers(work, benchmark):
    case = benchmark.Case(work, "transformers", "torch", "float32", benchmark.WORKS[work][0])
    figures = benchmark.run_case(case, 1)
    assert figures["tokens"] == (6 if work == "generation" else 32) and "transformers" in figures["versions"]


@pytest.mark.skipif(not find_spec("keras_hub"), reason="KerasHub is missing")
def test_keras_hub(benchmark):
    case = benchmark.Case("gpt", "keras_hub", keras.backend.backend(), "float32", benchmark.WORKS["gpt"][0])
    assert benchmark.run_case(case, 1)["tokens"] == 32


@pytest.mark.usefixtures("uncompiled")
def test_steps_of_a_gpu_are_timed_in_blocks(benchmark, monkeypatch):
    """On a CPU that passes for a GPU: after the steps of the warm-up the clock is read after each tenth."""
    keras_case = import_module("keras_case")
    with pytest.raises(ValueError, match="sees no GPU"):
        keras_case.prepare(gpu_case(benchmark, "kerasllm"))
    monkeypatch.setattr(keras_case, "prepare", lambda case: None)
    kept = []
    fit_seconds = keras_case.fit_seconds
    monkeypatch.setattr(
        keras_case, "fit_seconds", lambda *data, **more: kept.append(fit_seconds(*data, **more)) or kept[0]
    )
    figures = keras_case.measure(gpu_case(benchmark, "kerasllm"), steps=2)
    (seconds,) = kept
    assert len(seconds) == keras_case.WARM_UP + 2 and figures["tokens"] == 32 and figures["peak_bytes"] > 0
    assert figures["step_seconds"] == pytest.approx((seconds[-1] + seconds[-2]) / 20)


@pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is missing")
@pytest.mark.parametrize(
    ("work", "peer"),
    [
        ("host", "torch_loop"),
        ("shakespeare", "torch_loop"),
        ("bert", "transformers"),
        ("generation", "transformers"),
    ],
)
def test_peers_on_a_gpu(work, peer, benchmark, monkeypatch):
    """On a CPU that passes for a GPU, without the compiler."""
    if not all(map(find_spec, import_module("works").NEEDS[peer])):
        pytest.skip("transformers is missing")
    torch_case = import_module("torch_case")
    case = gpu_case(benchmark, peer, work, "mixed_bfloat16")
    with pytest.raises(RuntimeError, match="PyTorch sees no GPU"):
        torch_case.measure(case, 1)
    monkeypatch.setattr(torch_case, "DEVICES", {"gpu": "cpu"})
    monkeypatch.setattr(torch_case.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_case.torch.cuda, "max_memory_reserved", lambda: 7)
    monkeypatch.setattr(torch_case.torch, "compile", lambda function: function)
    figures = torch_case.measure(case, 1)
    assert figures["step_seconds"] > 0 and figures["peak_bytes"] == 7
    assert figures["tokens"] == (6 if work == "generation" else 32)


def gpu_case(benchmark, peer, work="shakespeare", precision="float32"):
    shape = benchmark.WORKS[work][0]
    return benchmark.Case(work, peer, keras.backend.backend(), precision, shape, "gpu")


def test_works_of_a_gpu(benchmark, run_recipe, tmp_path, capsys, monkeypatch):
    works = import_module("works")
    monkeypatch.setattr(benchmark, "measure", lambda cases, *more: asked.extend(cases) or [])
    monkeypatch.setattr(benchmark, "card", lambda: "a card")
    asked: list = []
    backend = keras.backend.backend()
    argv = ["--device", "gpu", "--backends", backend, "--peers", "false", "--precisions", "tf32"]
    assert run_recipe("benchmark", *argv, "--output", tmp_path / "gpu") == 1  # as nothing was measured
    report = json.loads((tmp_path / "gpu" / "benchmark.json").read_text())
    assert report["machine"]["card"] == "a card"
    assert [case.work for case in asked if case.peer == "kerasllm"] == [
        work for work, shapes in works.WORKS_ON_GPU.items() for _ in shapes
    ]
    assert {case.title for case in asked} >= {
        "BERT base, pretraining, length 128",
        "BERT base, pretraining, length 512",
        "GPT-2 124M, generation, batch 32",
    }
    for change, message in (
        (["--device", "gpu", "--work", "input"], "--work input is measured on a CPU"),
        (["--precisions", "tf32"], "tf32 is a GPU's"),
    ):
        assert run_recipe("benchmark", *change, "--output", tmp_path / "none") == 2
        assert message in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_machine_without_a_gpu(benchmark, run_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_recipe("benchmark", "--device", "gpu", "--output", tmp_path / "none") == 2
    assert "nvidia-smi finds no GPU here" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_several_processes(benchmark, run_recipe, tmp_path, capsys, monkeypatch):
    row = {"processes": 2, "mesh": [1, 2, 1], "tokens_per_second": 1234.0, "communication": 0.25}
    row |= {"state_bytes": 2**20, "peak_bytes": 2**30}
    monkeypatch.setattr(
        benchmark,
        "measure_processes",
        lambda backend, counts, steps: [row | {"backend": backend}] * len(counts),
    )
    argv = ["--work", "distributed", "--processes", "1", "2", "--backends", keras.backend.backend()]
    code = run_recipe("benchmark", *argv, "--output", tmp_path / "out")
    shown = capsys.readouterr().out
    if keras.backend.backend() == "tensorflow":
        assert code == 1 and "left out: several processes on tensorflow" in shown
    else:
        assert code == 0 and "2 processes (replica 1, fsdp 2): 1,234 tokens/s, 1 MiB" in shown
        assert len(json.loads((tmp_path / "out" / "benchmark.json").read_text())["distributed"]) == 2
    assert run_recipe("benchmark", *argv, "--processes", "3", "--output", tmp_path / "none") == 2
    assert "--processes 3: a batch of 16 rows does not divide" in capsys.readouterr().err


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow trains in one process")
@pytest.mark.usefixtures("uncompiled")
def test_one_of_several_processes(benchmark, monkeypatch):
    module = import_module("distributed_case")
    monkeypatch.setattr(module, "SMALL_GPT", {"num_layers": 1, "num_heads": 2, "hidden_dim": 16})
    monkeypatch.setattr(module, "choose_compilation", lambda *asked: False)
    figures = module.measure(2, 2, [1, 1, 1])
    weights = 8192 * 16 + 128 * 16 + 12 * 16 * 16  # and biases and scales; AdamW has two more of each
    assert figures["step_seconds"] > 0 and 12 * weights < figures["state_bytes"] < 12.5 * weights


def test_what_fails_is_told_and_left_out(benchmark, capsys):
    shape = {**TINY, "hidden_dim": 15}
    case = benchmark.Case("gpt", "kerasllm", keras.backend.backend(), "float32", shape)
    assert benchmark.measure([case], repeats=2, steps=1) == []
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(told) == 1 and "hidden_dim 15 does not divide" in told[0]


def test_comparison_takes_the_best_precision_and_backend(benchmark):
    def result(peer, backend, precision, speed):
        case = benchmark.Case("bert", peer, backend, precision, benchmark.WORKS["bert"][0])
        return {**case._asdict(), "tokens_per_second": {"median": speed}}

    measured = [
        *(result("kerasllm", "jax", "float32", 300.0), result("kerasllm", "jax", "mixed_bfloat16", 100.0)),
        *(result("keras_hub", "jax", "float32", 150.0), result("kerasllm", "torch", "float32", 600.0)),
        result("transformers", "torch", "float32", 400.0),
    ]
    lines = [
        line.split("best precision: ")[1] for line in import_module("benchmark_report").comparisons(measured)
    ]
    assert lines == [
        "kerasllm = 2.00 x KerasHub",
        "kerasllm = 4.00 x KerasHub, 1.50 x transformers",
        "kerasllm = 1.50 x transformers",
    ]


def test_input_is_compared_by_its_text(benchmark):
    def result(peer, speed):
        case = benchmark.Case("input", peer, "jax", "float32", benchmark.WORKS["input"][0])
        speeds = {"bytes_per_second": speed, "tokenizing_bytes_per_second": speed**2}
        return {**case._asdict(), **speeds, "tokens_per_second": {"median": 1.0}}

    assert list(
        import_module("benchmark_report").comparisons([result("kerasllm", 6.0), result("datasets", 2.0)])
    ) == [
        "Text file to batches, pairs, all: kerasllm = 3.00 x datasets",
        "Text file to batches, pairs, tokenizing: kerasllm = 9.00 x datasets",
    ]
