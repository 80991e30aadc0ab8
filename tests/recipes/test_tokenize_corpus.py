"""Tokens made ahead, in two parts, and a training on them."""

from safetensors.numpy import load_file

from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece


def test_parts_are_trained_on_as_the_text_is(run_recipe, tiny, tmp_path, capsys, without_compiling):
    """One run reads the text and trains the tokenizer, another reads the joined tokens: the same weights."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(2):
        (texts / f"{number}.txt").write_text(f"Text number {number} is about cats and dogs. " * 20)
    shape = ["--model.num_layers", 1, "--model.num_heads", 2, "--model.hidden_dim", 8, "--context_length", 8]
    shape += ["--steps", 2, "--batch_size", 2, "--sample_tokens", 0]
    with without_compiling():
        argv = ["--corpus", texts, "--vocabulary_size", 280, "--tokenizer", "byte_level_bpe", *shape]
        assert run_recipe("pretrain_gpt", *argv, "--output", tmp_path / "from_text") == 0
    shared = ["--corpus", texts, "--tokenizer", tmp_path / "from_text"]
    wordpiece = tmp_path / "wordpiece"
    save_tokenizer(train_wordpiece([text.read_text() for text in texts.iterdir()], 80), wordpiece)
    parts = [tmp_path / f"part{number}" for number in range(2)]
    for number, part in enumerate(parts):
        assert run_recipe("tokenize_corpus", *shared, "--shard", f"{number}/2", "--output", part) == 0
    tokens = tmp_path / "tokens"
    capsys.readouterr()
    assert run_recipe("tokenize_corpus", "--merge", *parts, "--output", tokens) == 0
    assert f"kerasllm pretrain_gpt --corpus {tokens} --tokenizer {tokens}" in capsys.readouterr().out
    with without_compiling():
        argv = ["--corpus", tokens, "--tokenizer", tokens, *shape, "--output", tmp_path / "from_tokens"]
        assert run_recipe("pretrain_gpt", *argv) == 0
    weights = [
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("from_text", "from_tokens")
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    capsys.readouterr()
    for recipe, wrong, words in (
        ("tokenize_corpus", [], "give either --corpus"),
        ("tokenize_corpus", ["--corpus", texts], "--corpus needs --tokenizer"),
        ("tokenize_corpus", [*shared, "--shard", "2/2"], "--shard '2/2'"),
        (
            "tokenize_corpus",
            ["--merge", parts[0], "--shard", "0/2"],
            "--shard and --tokenizer are for --corpus",
        ),
        ("pretrain_gpt", ["--corpus", tokens, *shape], "holds tokens and no text"),
    ):
        assert run_recipe(recipe, *wrong, "--output", tmp_path / "no") == 2
        assert words in capsys.readouterr().err and not (tmp_path / "no").exists()
