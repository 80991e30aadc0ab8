"""Searches from end to end, on a recipe that takes a fraction of a second; one with a real one."""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from kerasllm import cli
from kerasllm.cli import settings
from kerasllm.errors import InputError
from kerasllm.search import study as study_module
from kerasllm.search.recipe import TrainingRecipe
from kerasllm.search.runs import carry_out
from kerasllm.search.space import read_space
from kerasllm.search.study import Study

ROOT = Path(__file__).resolve().parents[2]
SPACE = ["learning_rate=1e-5..1e-1:log", "batch_size=16,32"]
NARROW = ["learning_rate=1e-5..1e-2:log", "batch_size=16,32"]


def load_search():
    spec = importlib.util.spec_from_file_location("recipe_search", ROOT / "recipes" / "search.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipe_search"] = module
    spec.loader.exec_module(module)
    return module


def search(*argv) -> int:
    module = load_search()
    try:
        cli.run(module.main, module.Config, [str(each) for each in argv])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def options(base_file, output, space=NARROW, trials=8):
    return [
        *("--recipe", "standin", "--config", base_file, "--space", *space),
        *("--trials", trials, "--output", output, "--repeats", 2),
    ]


def make_study(path, base_file, trials, **more) -> Study:
    path.mkdir(exist_ok=True)
    recipe = TrainingRecipe.find("standin", [base_file])
    space = read_space(more.pop("space", NARROW), recipe)
    return Study(path, recipe, space, metric="validation.accuracy", trials=trials, **more)


def starts(standin) -> list[list[str]]:
    return [line.split() for line in (standin.parent / "starts.txt").read_text().splitlines()]


def test_whole_search(standin, base_file, tmp_path, capsys):
    """The best is near the known best setting; its figures are of new seeds; the test data are judged only there."""
    output = tmp_path / "search"
    assert search(*options(base_file, output, SPACE, 14), "--workers", "2", "--compare_base") == 0
    shown = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    trials = results["trials"]
    assert [trial["name"] for trial in trials] == [f"{number:03d}" for number in range(1, 15)]
    states = {
        state: [trial for trial in trials if trial["state"] == state] for state in ("complete", "failed")
    }
    assert all("the numbers went wrong: step 3" in trial["reason"] for trial in states["failed"])
    assert all(trial["settings"]["learning_rate"] > 1e-2 for trial in states["failed"]) and states["failed"]
    assert len(states["failed"]) <= 5  # they are learned from
    first = trials[0]
    assert first["settings"] == {"learning_rate": 1e-5, "batch_size": 32}  # those of --config
    assert first["value"] == pytest.approx(0.5) and list(first["validations"]) == list("123456")
    best = results["best"]
    assert best["value"] == max(trial["value"] for trial in states["complete"]) > 0.8
    assert results["repeats"]["best"]["seeds"] == [1, 2]
    test, validation = (results["repeats"]["best"][part]["accuracy"] for part in ("test", "validation"))
    assert validation["values"] == pytest.approx([best["value"] - 0.001, best["value"] - 0.002])
    assert test["mean"] == pytest.approx(best["value"] - 0.1015)
    assert test["spread"] == pytest.approx(0.001 / 2**0.5)
    assert results["repeats"]["base"]["test"]["accuracy"]["mean"] == pytest.approx(0.3985)
    judged = [name for name, _, judge_test in starts(standin) if judge_test != "false"]
    assert sorted(judged) == ["base-1", "base-2", "best-1", "best-2"]
    assert set(results["importances"]) <= {"learning_rate", "batch_size"}
    content = yaml.safe_load((output / "best.yaml").read_text())
    assert content == {
        **{"train": "a.tsv", "validation": "b.tsv", "test": "c.tsv", "guard": {"skip_limit": 3}},
        **best["settings"],
    }
    config = TrainingRecipe.find("standin", [output / "best.yaml"]).config()
    assert config.learning_rate == best["settings"]["learning_rate"]
    assert (output / "search.png").read_bytes().startswith(b"\x89PNG")
    assert not list((output / "trials" / best["name"]).glob("checkpoints"))
    assert re.search(rf"{best['name']} +best +{best['value']:.4f}", shown)
    assert search("--output", output, "--resume") == 0
    assert "is finished: nothing to resume" in capsys.readouterr().out
    assert search(*options(base_file, output)) == 2
    assert "holds a finished run" in capsys.readouterr().err


def test_interrupted_search_proposes_the_same(standin, base_file, tmp_path, monkeypatch):
    """Two trials, then the rest by another process's study, give the trials of an uninterrupted one."""
    for part in (2, 7):
        assert carry_out(make_study(tmp_path / "parts", base_file, part), 1) is None
    whole = make_study(tmp_path / "whole", base_file, 7)
    assert carry_out(whole, 1) is None
    parts = make_study(tmp_path / "parts", base_file, 7)
    assert [without_time(trial) for trial in parts.outcomes()] == [
        without_time(trial) for trial in whole.outcomes()
    ]
    assert len({str(trial.settings) for trial in whole.outcomes()}) == 7
    other = make_study(tmp_path / "other", base_file, 4, sampler="random", seed=1)
    assert carry_out(other, 2) is None
    assert [trial.settings for trial in other.outcomes()[1:]] != [
        trial.settings for trial in whole.outcomes()[1:4]
    ]


def without_time(trial):
    return dataclasses.replace(trial, seconds=None)


def test_bad_trials_are_stopped(standin, base_file, tmp_path):
    """By the median of the others after as many validations; the best of them goes on."""
    study = make_study(tmp_path / "study", base_file, 10, sampler="random")
    assert carry_out(study, 1) is None
    pruned = [trial for trial in study.outcomes() if trial.state == "pruned"]
    assert pruned and all(trial.value is not None for trial in pruned)
    assert min(trial.name for trial in pruned) >= "006"  # five complete ones come first
    without = make_study(tmp_path / "without", base_file, 10, sampler="random", pruning=False)
    assert carry_out(without, 4) is None
    assert {trial.state for trial in without.outcomes()} == {"complete"}
    assert without.best().settings == study.best().settings


def test_settings_are_tried_once(standin, base_file, tmp_path, capsys):
    """Of two possible settings two run, whatever is proposed; the best is that of --config, which is repeated once."""
    output = tmp_path / "search"
    given = options(base_file, output, ["batch_size=16,32"], 8)
    assert search(*given, "--compare_base", "--sampler", "random") == 0
    results = json.loads((output / "results.json").read_text())
    assert len(starts(standin)) == 4 and len(list((output / "trials").glob("[0-9][0-9][0-9]"))) == 2
    by_size = {}
    for trial in results["trials"]:
        by_size.setdefault(trial["settings"]["batch_size"], set()).add((trial["value"], trial["state"]))
    assert len(results["trials"]) == 8 and {size: len(found) for size, found in by_size.items()} == {
        16: 1,
        32: 1,
    }
    assert results["best"]["name"] == "001" and set(results["repeats"]) == {"best"}
    assert capsys.readouterr().out.count(", not run again") == 6


def test_failed_settings_are_not_tried_again(standin, base_file, tmp_path, capsys):
    study = make_study(tmp_path / "study", base_file, 8, sampler="random", space=["learning_rate=1e-5,1e-1"])
    assert carry_out(study, 1) is None
    assert capsys.readouterr().out.count(", not run again") == 6
    failed = [trial for trial in study.outcomes() if trial.settings["learning_rate"] == 1e-1]
    assert len(failed) > 1 and {trial.state for trial in failed} == {"failed"}
    assert len({trial.reason for trial in failed}) == 1


def test_who_leads_goes_on(standin, base_file, tmp_path, monkeypatch):
    """A trial that is better than each complete one is not stopped, whatever the median says."""
    study = make_study(tmp_path / "study", base_file, 3)
    assert carry_out(study, 1) is None
    best = study.best().value
    late = make_study(tmp_path / "study", base_file, 4)
    run = late.next_run()
    monkeypatch.setattr(study_module.optuna.Trial, "should_prune", lambda self: True)
    assert not late.look(run, 1, {"accuracy": best + 0.01})
    assert late.look(run, 2, {"accuracy": best - 0.01})


def test_signal_stops_and_resume_goes_on(standin, base_file, tmp_path, monkeypatch, capsys):
    """Exit code 143; the cut trials go on from their own checkpoints, and none is lost or made twice."""
    output = tmp_path / "search"
    monkeypatch.setenv("STANDIN_WAITS", "1")

    def stop():
        while len(list(output.glob("trials/*/checkpoints/step-*"))) != 2:
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert search(*options(base_file, output, trials=4), "--workers", 2) == 143
    thread.join()
    assert "--resume goes on from here" in capsys.readouterr().out
    assert [done for _, done, _ in starts(standin)] == ["0", "0"]
    monkeypatch.delenv("STANDIN_WAITS")
    assert search(*options(base_file, output, trials=4)) == 2
    assert "add --resume" in capsys.readouterr().err
    assert search("--output", output, "--resume", "--seed", "4") == 2
    assert "was started with seed 0, not 4" in capsys.readouterr().err
    base_file.unlink()  # the search has its own copy
    assert search("--output", output, "--resume", "--workers", "1", "--trials", "5") == 0
    assert [start[:2] for start in starts(standin)[2:5]] == [["001", "3"], ["002", "3"], ["003", "0"]]
    trials = json.loads((output / "results.json").read_text())["trials"]
    assert len(trials) == 5 and {trial["state"] for trial in trials} == {"complete"}


def test_a_run_that_is_told_to_stop_stops_the_search(standin, base_file, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_WAITS", "1")
    study = make_study(tmp_path / "study", base_file, 3)
    looked = study.look

    def stop_first(run, number, figures):
        if number == 3:
            run._process.send_signal(signal.SIGTERM)
        return looked(run, number, figures)

    monkeypatch.setattr(study, "look", stop_first)
    assert carry_out(study, 1) == 143
    assert [trial.state for trial in study.outcomes()] == ["cut"]


def test_killed_search(standin, base_file, tmp_path):
    """After kill -9 its runs stop by themselves and save; the resumed search equals one that was left alone."""
    output, whole = tmp_path / "search", tmp_path / "whole"
    code = "import sys, pathlib; from kerasllm import cli; from kerasllm.search import recipe\n"
    code += f"recipe.recipes = lambda: {{'standin': pathlib.Path({str(standin)!r})}}\n"
    code += (
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r}); import search; cli.run(search.main, search.Config)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, options(base_file, output, trials=4))],
        env=os.environ | {"PYTHONPATH": str(ROOT), "STANDIN_WAITS": "1"},
    )
    try:
        saved = output / "trials" / "001" / "checkpoints" / "step-00000000"
        wait_for(lambda: saved.exists() and saved.read_text() == "2")
    finally:
        process.kill()
        process.wait()
    with (output / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "torn')
    (output / "journal.log.lock").symlink_to("journal.log")
    wait_for(lambda: saved.read_text() == "3")
    time.sleep(0.1)
    assert search("--output", output, "--resume") == 0
    assert search(*options(base_file, whole, trials=4)) == 0
    assert starts(standin)[1][:2] == ["001", "3"]
    one, other = (
        json.loads((path / "results.json").read_text(), parse_float=lambda text: round(float(text), 12))
        for path in (output, whole)
    )
    for results in (one, other):
        for trial in [*results["trials"], results["best"]]:
            del trial["seconds"]
        del results["seconds"]
    assert one == other


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--metric", "test.accuracy"], "settings are chosen by a figure of the validation"),
        (["--metric", "validation.f1"], "is no figure of .* it has validation.loss, validation.accuracy"),
        (["--metric", "accuracy"], "settings are chosen by a figure of the validation"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--space", "activation=relu"], "one value leaves no choice"),
        (["--trials", "0"], "--trials is 0, it must be at least 1"),
        (["--learning_rate", "1"], "unknown option --learning_rate"),
    ],
)
def test_refused(changes, message, standin, base_file, tmp_path, capsys):
    assert search(*options(base_file, tmp_path / "search", trials=1), *changes) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error)


def test_no_validation(standin, tmp_path, capsys):
    path = tmp_path / "alone.yaml"
    path.write_text("train: a.tsv\n")
    assert search(*options(path, tmp_path / "search")) == 2
    assert (
        "settings are chosen by a validation figure: --config needs --validation" in capsys.readouterr().err
    )
    assert not (tmp_path / "search").exists()


def test_hopeless(standin, base_file, tmp_path, capsys):
    """Three trials that fail say that the rest would."""
    space = ["learning_rate=2e-2..1e-1:log", "batch_size=16,32"]
    assert search(*options(base_file, tmp_path / "search", space, 9)) == 2
    assert "the first 3 trials have failed, the last one: the numbers went wrong" in capsys.readouterr().err


def test_a_figure_that_is_not_finite_fails_the_trial(standin, base_file, tmp_path):
    study = make_study(tmp_path / "study", base_file, 1)
    run = study.next_run()
    run.directory.mkdir(parents=True)
    (run.directory / "results.json").write_text('{"validation": {"accuracy": null}}')
    study.end(run, 0)
    (trial,) = study.outcomes()
    assert (trial.state, trial.reason) == ("failed", "validation.accuracy is not finite")


def test_without_optuna(monkeypatch, standin, base_file, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, study_module.__name__)
    assert search(*options(base_file, tmp_path / "search")) == 2
    assert "pip install 'kerasllm[search]'" in capsys.readouterr().err
    sys.modules[study_module.__name__] = study_module


def test_a_real_recipe(tmp_path, capsys):
    """One trial of a BERT that learns from six texts, in a process of its own."""
    rows = [f"{word} day\t{label}" for word, label in zip("abcdefghijkl", "st" * 6, strict=True)]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    base = tmp_path / "base.yaml"
    base.write_text(
        f"train: {tmp_path}/train.tsv\nvalidation_fraction: 0.25\ntest_fraction: 0.25\ntext_columns: 0\n"
        "label_column: 1\nsize: tiny\nvocabulary_size: 60\nsequence_length: 16\nepochs: 2\nbatch_size: 4\n"
        "model: {num_layers: 1, num_heads: 1, hidden_dim: 8}\nmonitor: accuracy\n"
    )
    argv = ["--recipe", "finetune_bert", "--config", base, "--space", "learning_rate=1e-4..1e-1:log"]
    output = tmp_path / "search"
    assert search(*argv, "--trials", "1", "--repeats", "0", "--output", output) == 0
    trial = json.loads((output / "results.json").read_text())["best"]
    results = json.loads((output / "trials" / "001" / "results.json").read_text())
    assert results["validation"]["accuracy"] == trial["value"] and "test" not in results
    assert len(trial["validations"]) == 2


def test_unreadable_journal(standin, base_file, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "journal.log").write_text("no journal\n[]\n")
    with pytest.raises(InputError, match=r"journal\.log cannot be read as the journal"):
        make_study(tmp_path / "study", base_file, 3)


def test_help_explains_the_settings(capsys, monkeypatch):
    """--config is the recipe's here, and the example can be typed."""
    monkeypatch.setattr("sys.argv", ["kerasllm search"])
    monkeypatch.setenv("COLUMNS", "80")
    assert search("--help") == 0
    shown = capsys.readouterr().out
    for option in settings.options(load_search().Config):
        assert f"--{option.name}" in shown.split() and option.documentation
    assert shown.count("\n  --config ") == 1 and "YAML file of the recipe's settings" in shown
    words = shlex.split(shown[shown.index("KERAS_BACKEND=") :].replace("\\\n", ""))
    config = cli.parse(load_search().Config, words[3:])
    assert config.config == ["base.yaml"] and len(config.space) == 3 and config.trials == 20
