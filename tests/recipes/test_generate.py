"""The generate recipe at its terminal: conversations, stop texts and files of prompts; a model of characters."""

import io
import json

import pytest

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.checkpoints import write_model
from kerasllm.generation.terminal import TerminalWriter
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
POSITIONS = 32


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of 20 characters as it comes from the random numbers, with a chat template."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = train_characters(["abcdefghij klmnopqr\n"])
    config = GPTConfig(
        vocabulary_size=21,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        max_sequence_length=POSITIONS,
        initializer_range=0.5,
        end_token_id=20,
    )
    write_model(GPTCausalLM(config, seed=4), path)
    save_tokenizer(tokenizer, path, max_length=POSITIONS, chat_template=TEMPLATE)
    return path


@pytest.fixture
def continuation(directory):
    """From a prompt to what the model says to it."""
    model, tokenizer = GPTCausalLM.from_pretrained(directory), load_tokenizer(directory)

    def of(prompt, **settings):
        text = model.generate(prompt, tokenizer=tokenizer, **{"max_new_tokens": 10, **settings})
        return text.removeprefix(prompt)

    return of


@pytest.fixture
def chat(directory, run_recipe, monkeypatch, capsys):
    """Types lines; returns the answers, what is said on stderr and the exit code."""

    def talk(lines, *options):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = run_recipe("generate", "--model", directory, "--chat", "--max_new_tokens", "10", *options)
        return (*capsys.readouterr(), code)

    return talk


def test_an_empty_answer_does_not_end_the_conversation(chat, continuation):
    first = continuation("ab\n")
    shown, said, code = chat(["ab", "cd"], "--stop", first[0])
    assert code == 0 and shown.startswith("\n") and "this turn is forgotten" in said
    assert shown.splitlines()[1].strip() == continuation("cd\n", stop=first[0]).strip()


def test_a_character_that_is_unknown_is_asked_for_again(chat, continuation):
    shown, said, code = chat(["a€", "ab", "a" * 40], "--stop", "\n")
    assert code == 0 and shown.splitlines()[0] == continuation("ab\n", stop="\n")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "your message: the tokenizer does not know the character '€'" in errors[0]
    assert "your message makes 41 tokens, there is room for 22" in errors[1]


def test_what_is_remembered_is_cut_at_the_stop_text(chat, continuation, directory, recipe):
    first = continuation("ab\n")
    stop = first[4:6]
    cut = first[: first.index(stop)]
    shown, _, code = chat(["ab", "cd"], "--stop", stop)
    history = f"ab\n{cut.strip()}\ncd\n"
    assert code == 0
    assert shown == f"{cut}\n{continuation(history, stop=stop)}\n"


def test_an_answer_ends_at_the_model_s_own_end_token_too(
    directory, continuation, run_recipe, tmp_path, monkeypatch, capsys
):
    first = continuation("ab\n")
    end = load_tokenizer(directory).token_to_id(first[3])
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\n"))
    assert run_recipe("generate", "--model", tmp_path, "--chat", "--max_new_tokens", "10") == 0
    assert capsys.readouterr().out == first[: first.index(first[3]) + 1] + "\n"


def test_undecodable_input_is_told_plainly(directory, run_recipe, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    assert run_recipe("generate", "--model", directory, "--chat", "--max_new_tokens", "10") == 2
    assert "your message: not UTF-8 at byte 1" in capsys.readouterr().err


def test_a_conversation_needs_room(chat):
    assert "--max_new_tokens 32 leaves no room" in chat(["ab"], "--max_new_tokens", "32")[1]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stop_text_is_never_printed(beams, directory, continuation, run_recipe, capsys):
    whole = continuation("abc", num_beams=beams)
    stop = whole[4:7]
    options = ["--prompt", "abc", "--max_new_tokens", "10", "--num_beams", beams]
    assert run_recipe("generate", "--model", directory, *options, "--stop", stop) == 0
    assert capsys.readouterr().out == f"abc{whole[: whole.index(stop)]}\n"


def test_the_beginning_of_a_stop_text_waits(directory, capsys):
    tokenizer = load_tokenizer(directory)
    writer = TerminalWriter(tokenizer, [0], ["cde"], before="a")
    shown = []
    for character in "bcdbcdef":
        writer(0, tokenizer.encode(character).ids)
        shown.append(capsys.readouterr().out)
    assert shown == ["ab", "", "", "cdb", "", "", "", ""]
    assert writer.end() == "bcdb" and capsys.readouterr().out == "\n"


def file_of(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_texts_do_not_depend_on_the_batches(directory, run_recipe, tmp_path):
    prompts = file_of(tmp_path / "prompts.txt", "ab", "ab", "ab", "a" * 30)
    texts = []
    for batch_size in (1, 2, 4):
        output = tmp_path / f"{batch_size}.jsonl"
        options = ["--file", prompts, "--temperature", "2", "--batch_size", batch_size, "--output", output]
        assert run_recipe("generate", "--model", directory, *options) == 0
        texts.append([json.loads(line)["text"] for line in output.read_text().splitlines()])
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) == 4 and len(texts[0][0]) > 6


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ([], ":3: a prompt of 32 tokens and one new token do not fit into the model's 32 positions"),
        (["--max_new_tokens", "31"], ":1: a prompt of 2 tokens and --max_new_tokens 31 do not fit"),
    ],
)
def test_a_prompt_that_is_too_long_is_named_first(options, fault, directory, run_recipe, tmp_path, capsys):
    prompts = file_of(tmp_path / "prompts.txt", "ab", "", "a" * 32)
    assert run_recipe("generate", "--model", directory, "--file", prompts, *options) == 2
    shown, said = capsys.readouterr()
    assert not shown and f"{prompts}{fault}" in said
