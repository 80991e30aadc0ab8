"""What can be typed, what can be written in YAML, and what is said about mistakes."""

import dataclasses
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.cli import parse, run
from kerasllm.cli.settings import continues, in_group, only_without
from kerasllm.errors import InputError


@dataclass(frozen=True)
class Model:
    num_layers: int | None = None
    """How many blocks
    there are."""
    dropout: float | None = 0.1

    def __post_init__(self):
        if self.num_layers == 0:
            raise ValueError("num_layers must be at least 1, not 0")


@dataclass(frozen=True)
class Config:
    """Trains nothing.

    This paragraph is not shown.

    Args:
        seed: where the random
            numbers begin.
    """

    output: Path
    """Where the run goes."""
    corpus: list[str] = field(default_factory=lambda: ["python-docs"])
    """Files or directories."""
    text_columns: str = "0"
    label_column: str | None = None
    precision: Literal["float32", "mixed_bfloat16", "auto"] = "float32"
    learning_rate: float = 1e-4
    seed: int = 0
    steps: int | None = None
    resume: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weights: tuple[float, ...] = ()
    validation: float | Literal["none-at-all"] = 0.05
    model: Model = field(default_factory=lambda: Model(num_layers=4))


def values(*arguments, config=Config):
    return parse(config, ["--output", "run", *arguments])


@dataclass(frozen=True)
class Start:
    init: str | None = None
    size: str = field(default="mini", metadata=only_without("init"))


def test_options_that_another_makes_void(tmp_path):
    """Refused where they are typed, even as their default; a file with all settings of a run is taken."""
    assert parse(Start, ["--size", "tiny"]) == Start(size="tiny")
    assert parse(Start, ["--init", "null", "--size", "tiny"]) == Start(size="tiny")
    with pytest.raises(InputError, match="--size has no effect with --init: leave one of the two out"):
        parse(Start, ["--size", "mini", "--init", "run"])
    (tmp_path / "a.yaml").write_text("init: run\nsize: mini\n")
    assert parse(Start, ["--config", str(tmp_path / "a.yaml")]) == Start("run", "mini")
    with pytest.raises(InputError, match="--size has no effect with --init"):
        parse(Start, ["--config", str(tmp_path / "a.yaml"), "--size", "tiny"])


def test_defaults():
    assert values() == Config(Path("run"))
    assert values().model.num_layers == 4


@pytest.mark.parametrize(
    "text", ["0", "3,4", "#1 String,#2 String", "null ", "true", "1e3", "[a]", "{a: b}", "a: b", "-1"]
)
def test_text_stays_as_it_is(text):
    assert values("--text_columns", text).text_columns == text
    assert values(f"--text_columns={text}").text_columns == text


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])))
def test_any_text_comes_through(text):
    assert values(f"--text_columns={text}").text_columns == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--corpus a b", ["a", "b"]),
        ("--corpus a --corpus b", ["a", "b"]),
        ("--corpus=a --corpus b c --seed 1", ["a", "b", "c"]),
        ("--corpus a,b", ["a,b"]),
    ],
)
def test_lists(arguments, expected):
    assert values(*arguments.split()).corpus == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", False),
        ("--resume", True),
        ("--resume true", True),
        ("--resume false", False),
        ("--resume=no", False),
        ("--resume --seed 3", True),
    ],
)
def test_switches(arguments, expected):
    assert values(*arguments.split()).resume is expected


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ("--seed -3", "seed", -3),
        ("--steps 1e6", "steps", 1_000_000),
        ("--steps null", "steps", None),
        ("--learning_rate 3", "learning_rate", 3.0),
        ("--label_column 2", "label_column", "2"),
        ("--betas 0.5 1", "betas", (0.5, 1.0)),
        ("--weights 1 2 3", "weights", (1.0, 2.0, 3.0)),
        ("--validation none-at-all", "validation", "none-at-all"),
        ("--validation 0.5", "validation", 0.5),
        ("--precision auto", "precision", "auto"),
        ("--seed 1 --seed 2", "seed", 2),
    ],
)
def test_values(arguments, name, expected):
    value = getattr(values(*arguments.split()), name)
    assert value == expected
    assert type(value) is type(expected)


def test_nested_options_keep_their_neighbours():
    assert values("--model.dropout", "null").model == Model(num_layers=4, dropout=None)


def test_names_with_spaces_and_chinese(tmp_path):
    file = tmp_path / "我的 配置.yaml"
    file.write_text("output: 输出 目录\ncorpus: [语料 一.txt]\n", encoding="utf-8")
    config = parse(Config, ["--config", str(file), "--label_column", "标签 列"])
    assert (config.output, config.corpus, config.label_column) == (
        Path("输出 目录"),
        ["语料 一.txt"],
        "标签 列",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num_layer 2", "unknown option --num_layer: did you mean --model.num_layers?"),
        ("--model.num_layer 2", "unknown option --model.num_layer: did you mean --model.num_layers?"),
        ("--learning-rate 2", "unknown option --learning-rate: did you mean --learning_rate?"),
        ("--LR 2", "unknown option --LR (--help lists all options)"),
        ("--print-config", "unknown option --print-config: did you mean --print_config?"),
        ("--model.num_layers x", "--model.num_layers: 'x' is not a whole number or null"),
        ("--model.num_layers 0", "num_layers must be at least 1, not 0"),
        ("--seed 1.5", "--seed: '1.5' is not a whole number"),
        ("--seed inf", "--seed: 'inf' is not a whole number"),
        ("--seed null", "--seed: 'null' is not a whole number"),
        ("--learning_rate nan", "--learning_rate: 'nan' is not a number"),
        ("--precision float16", "--precision: 'float16' is not one of float32, mixed_bfloat16, auto"),
        ("--resume=perhaps", "--resume: 'perhaps' is not true or false"),
        ("--betas 1", "--betas: ['1'] is not 2 values, each a number"),
        ("--seed", "--seed: a value is missing"),
        ("--corpus --seed 1", "--corpus: a value is missing"),
        ("--seed 1 2", "unexpected '2': settings are given as --option value"),
        ("--config missing.yaml", "--config missing.yaml: no such file"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(InputError) as error:
        values(*arguments.split())
    assert str(error.value) == message


def test_missing_option():
    with pytest.raises(InputError, match="missing --output"):
        parse(Config, [])


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("text_columns: 3", "text_columns", "3"),
        ("text_columns: 1.10", "text_columns", "1.10"),
        ("text_columns: no", "text_columns", "no"),
        ("text_columns: 3,4", "text_columns", "3,4"),
        ("text_columns: '#1 String,#2 String'", "text_columns", "#1 String,#2 String"),
        ("text_columns: 2024-01-01", "text_columns", "2024-01-01"),
        ("label_column:", "label_column", None),
        ("label_column: ''", "label_column", ""),
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("corpus: [a, 3]", "corpus", ["a", "3"]),
        ("corpus: a", "corpus", ["a"]),
        ("corpus: []", "corpus", []),
        ("betas: [0.5, 1]", "betas", (0.5, 1.0)),
        ("resume: yes", "resume", True),
        ("model:\n  num_layers: 7", "model", Model(7)),
        ("model.num_layers: 7", "model", Model(7)),
        ("model: {dropout: null}", "model", Model(4, None)),
        ("versions: {python: 3}\nresolved: {precision: float32}\nseed: 2", "seed", 2),
        ("", "seed", 0),
    ],
)
def test_yaml(tmp_path, text, name, expected):
    (tmp_path / "a.yaml").write_text(text)
    assert getattr(values("--config", str(tmp_path / "a.yaml")), name) == expected


LAUGHS = "e0: &e0 [x, x]\n" + "".join(f"e{i}: &e{i} [*e{i - 1}, *e{i - 1}]\n" for i in range(1, 22))
"""A few lines which, written out, are four million; in a message they would be cut short too late."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 3", "a.yaml: unknown key 'sed': did you mean seed?"),
        ("model:\n  num_layer: 3", "a.yaml: unknown key 'model.num_layer': did you mean model.num_layers?"),
        ("seed: x", "a.yaml: seed: 'x' is not a whole number"),
        ("seed:", "a.yaml: seed: null is not a whole number"),
        ("seed: [1]", "a.yaml: seed: ['1'] is not a whole number"),
        ("model: 3", "a.yaml: model: '3' is not a group of settings"),
        ("seed: 1\nseed: 2", "a.yaml:2: not valid YAML: key 'seed' twice"),
        (LAUGHS + "? *e21\n: 1", "a.yaml:22: not valid YAML: key [[[[[[["),
        ("seed: [1", "a.yaml:1: not valid YAML"),
        ("- seed", "a.yaml: expected `option: value` lines"),
        ("\x00", "a.yaml: not valid YAML"),
    ],
)
def test_mistakes_in_yaml(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        values("--config", "a.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_command_line_over_yaml_over_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nsteps: 5\ncorpus: [a]\noutput: there")
    (tmp_path / "b.yaml").write_text("steps: 6")
    arguments = [
        "--seed",
        "3",
        "--corpus",
        "b",
        "--config",
        str(tmp_path / "a.yaml"),
        "--config",
        str(tmp_path / "b.yaml"),
    ]
    config = parse(Config, arguments)
    assert (config.seed, config.steps, config.corpus, config.output) == (3, 6, ["b"], Path("there"))


def test_printed_config_reads_back(tmp_path, capsys):
    arguments = [
        "--output",
        "a b",
        "--text_columns",
        "#1 String,#2 String",
        "--betas",
        "0.5",
        "1e-9",
        "--corpus",
        "数据",
    ]
    with pytest.raises(SystemExit) as end:
        parse(Config, [*arguments, "--print_config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "# How many blocks there are." in printed
    (tmp_path / "a.yaml").write_text(printed, encoding="utf-8")
    assert parse(Config, ["--config", str(tmp_path / "a.yaml")]) == parse(Config, arguments)


def test_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipes/nothing.py"])
    with pytest.raises(SystemExit) as end:
        parse(Config, ["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    squeezed = " ".join(shown.split())
    assert "Trains nothing." in shown
    assert "not shown" not in shown
    for expected in (
        "--output Where the run goes. (a path; required)",
        "--seed where the random numbers begin. (a whole number; default: 0)",
        "--model.num_layers How many blocks there are. (a whole number or null; default: 4)",
        "default: python-docs)",
        "default: 0.0001)",
        "(true or false; default: false)",
    ):
        assert expected in squeezed
    assert max(map(len, shown.splitlines())) <= 110


@dataclass(kw_only=True)
class Steps:
    group = "optimization"

    steps: int = 5
    """How many."""
    seed: int = field(default=0, metadata=in_group("run"))


@dataclass(kw_only=True)
class Continued(Steps):
    group = "data"

    corpus: str
    output: str
    rate: float = 0.5
    steps: int = 7
    resume: bool = field(default=False, metadata=continues("output"))
    model: Model = field(default_factory=Model)


def test_a_run_continues_with_its_own_settings(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "corpus: a.txt\noutput: elsewhere\nrate: 0.25\nsteps: 9\nresume: false\nmodel:\n  dropout: 0.2\n"
        "versions: {}\nresolved: {}\n"
    )
    (tmp_path / "other.yaml").write_text("steps: 8\n")
    run = str(tmp_path)
    found = parse(Continued, ["--output", run, "--resume"])
    expected = Continued(
        corpus="a.txt", output=run, rate=0.25, steps=9, resume=True, model=Model(dropout=0.2)
    )
    assert found == expected
    other = ["--config", str(tmp_path / "other.yaml"), "--output", run, "--resume", "--rate", "1"]
    assert parse(Continued, other) == dataclasses.replace(expected, steps=8, rate=1.0)
    assert parse(Continued, ["--output", run, "--corpus", "b"]) == Continued(corpus="b", output=run)


def test_a_run_without_settings_is_not_continued(tmp_path, monkeypatch):
    run = str(tmp_path / "none")
    with pytest.raises(
        InputError, match=rf"missing --corpus \(--resume takes them from {run}/config.yaml, which"
    ):
        parse(Continued, ["--output", run, "--resume"])
    found = parse(Continued, ["--output", run, "--resume", "--corpus", "a"])
    assert found == Continued(corpus="a", output=run, resume=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("corpus: mine\n")
    with pytest.raises(InputError, match="missing --corpus"):
        parse(Continued, ["--output", "", "--resume"])


def test_help_is_in_groups(capsys):
    with pytest.raises(SystemExit):
        parse(Continued, ["--help"])
    shown = capsys.readouterr().out
    groups = {part.split(":\n")[0]: part for part in shown.split("\n\n")}
    assert "--corpus" in groups["data"] and "--model.dropout" in groups["data"]
    assert "--steps" in groups["optimization"] and "How many." in groups["optimization"]
    assert "--seed" in groups["run"]


@dataclass
class Small:
    seed: int = 0


def raising(error):
    def main(config):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("train.tsv:3: two\nlines"), 2, "error: train.tsv:3: two lines\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "error: No space left on device; free some space, or choose another --output\n",
        ),
        (PermissionError(13, "Permission denied", "/data/a"), 2, "error: /data/a: Permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_endings(capsys, error, code, message):
    with pytest.raises(SystemExit) as end:
        run(raising(error), Small, [])
    assert end.value.code == code
    assert capsys.readouterr().err == message


def test_other_errors_keep_their_trace():
    for error in (ZeroDivisionError(), ValueError("a bug"), FileNotFoundError(2, "no such file")):
        with pytest.raises(type(error)):
            run(raising(error), Small, [])


def test_exit_code_of_main():
    run(lambda config: None, Small, [])
    run(lambda config: 0, Small, [])
    with pytest.raises(SystemExit) as end:
        run(lambda config: 143, Small, [])
    assert end.value.code == 143


def test_as_a_program(tmp_path):
    """From a shell: one line, code 2; no framework is loaded for it."""
    program = tmp_path / "recipe.py"
    program.write_text(
        textwrap.dedent("""
            import importlib.util, sys, types
            package = types.ModuleType("kerasllm")  # without the models, as if they were imported later
            package.__path__ = [importlib.util.find_spec("kerasllm").submodule_search_locations[0]]
            sys.modules["kerasllm"] = package
            from dataclasses import dataclass
            from kerasllm.cli import run

            @dataclass
            class Config:
                steps: int = 3
                '''How many.'''

            def main(config):
                assert not {"keras", "jax", "torch", "tensorflow", "numpy"} & set(sys.modules)
                print(config.steps)

            run(main, Config)
        """)
    )
    good = subprocess.run(
        [sys.executable, program, "--steps", "7"], capture_output=True, text=True, timeout=60
    )
    assert (good.returncode, good.stdout, good.stderr) == (0, "7\n", "")
    bad = subprocess.run([sys.executable, program, "--step", "7"], capture_output=True, text=True, timeout=60)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "error: unknown option --step: did you mean --steps?\n"


def test_every_field_of_a_frozen_config_is_an_option():
    assert {f.name for f in dataclasses.fields(Config)} == set(vars(values()))
