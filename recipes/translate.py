"""Translates texts with an encoder-decoder, or does whatever text-to-text task it was trained on.

KERAS_BACKEND=jax python recipes/translate.py --model runs/translation --text "A man sleeps." --num_beams 5
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kerasllm import RecurrentSeq2SeqConfig, Seq2SeqConfig, cli
from kerasllm.cli.ranges import above, at_least, within
from kerasllm.data.sources.lines import input_lines, text_lines
from kerasllm.data.text_data.texts import read_single_texts
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_outputs, write_output
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings
from kerasllm.tasks.attention_map import attention_map
from kerasllm.tasks.saved_model import open_model
from kerasllm.tasks.translation import Translation, output_line, translation_figures, translations, warn_cut
from kerasllm.training.run.attention import draw_attention


@dataclass
class Config:
    """Translates texts, lines of a file or of standard input."""

    model: str
    """A run, a model directory or a hub id."""

    text: list[str] = field(default_factory=list)
    """Texts to translate."""

    file: str | None = None
    """Text file with a text per line; standard input if neither --text nor --file is given."""

    reference: str | None = None
    """Text file with the right translation of each line; BLEU and chrF are printed."""

    tokenized_lowercase: bool = False
    """Ignore case in BLEU, as older papers do; the signature says so."""

    target_tag: str | None = None
    """Tag before each source, such as >>de<<, for a model of several languages."""

    num_beams: int | None = field(default=None, metadata=at_least(1))
    """Beams of the search; 1 for the most likely token at each step. If null, 5, or 1 where targets are sampled."""

    temperature: float | None = field(default=None, metadata=above(0))
    """Sample the targets, from logits divided by this."""

    top_p: float | None = field(default=None, metadata=within(0, 1, above=True, below=False))
    """Sample from the likeliest tokens that together have this probability."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of the sampling."""

    n_best: int = field(default=1, metadata=at_least(1))
    """Translations of each text, at most as many as there are beams."""

    scores: bool = False
    """Print the score of each translation, too."""

    length_penalty: float = 1.0
    """Power of the length by which a score is divided; above 0 favors longer translations."""

    length_penalty_form: Literal["plain", "gnmt"] = "plain"
    """Divide by length ** penalty, or by GNMT's ((5 + length) / 6) ** penalty."""

    max_ratio: float | None = field(default=2.0, metadata=above(0))
    """Most tokens of a translation, as a multiple of its source's, plus ten; null for no limit."""

    batch_size: int = field(default=32, metadata=at_least(1))
    """Texts per batch."""

    output: str | None = None
    """File for the translations, one per line; with --n_best or --scores a JSON object per line."""

    attention: str | None = None
    """PNG file for a picture of what the model attends to in the first text as it translates it."""


def main(config: Config) -> int:
    """Reads the model and the texts, and writes the translations."""
    settings = check(config)
    saved = open_model(config.model, (Seq2SeqConfig, RecurrentSeq2SeqConfig))
    if (tag := config.target_tag) and (tag[:2] != ">>" or saved.tokenizer.token_to_id(tag) is None):
        raise InputError(f"--target_tag {tag}: the vocabulary of {config.model} has no such tag (as >>de<<)")
    texts = read(config)
    expected = read_reference(config, len(texts))
    sources = [f"{tag} {text}" if tag else text for text in texts]
    model = Translation.load(saved)
    found = [own[: config.n_best] for own in translations(model, saved.tokenizer, sources, settings)]
    warn_cut(model, saved.tokenizer, sources)
    if config.attention:
        picture = attention_map(model, saved.tokenizer, sources[0], found[0][0][0])
        draw_attention(Path(config.attention), *picture)
    pairs = zip(texts, found, strict=True)
    lines = "\n".join(output_line(*pair, config.n_best, config.scores) for pair in pairs)
    if config.output:
        write_output(Path(config.output), f"{lines}\n")
    print(f"written to {config.output}" if config.output else lines)
    if expected:
        figures = translation_figures([own[0][0] for own in found], expected, config.tokenized_lowercase)
        print("BLEU {bleu:.2f}, chrF {chrf:.2f} ({signature})".format(**figures), file=sys.stderr)
    return 0


def check(config: Config) -> TargetSettings:
    """Refuses settings that contradict each other, before anything is read; returns those of generation."""
    num_beams = config.num_beams or (5 if config.temperature is None and config.top_p is None else 1)
    if config.text and config.file:
        raise InputError("give either --text or --file")
    if config.n_best > num_beams:
        raise InputError(f"--n_best {config.n_best} is above --num_beams {num_beams}")
    if config.scores and num_beams < 2:
        raise InputError("--scores needs a beam search: --num_beams of at least 2")
    outputs = {"--output": config.output, "--attention": config.attention}
    check_outputs(outputs, [config.file, config.reference])
    names = ("temperature", "top_p", "seed", "length_penalty")
    return TargetSettings(
        Settings(num_beams=num_beams, **{name: getattr(config, name) for name in names}),
        max_ratio=config.max_ratio,
        gnmt=config.length_penalty_form == "gnmt",
        batch_size=config.batch_size,
    )


def read(config: Config) -> list[str]:
    """Returns the texts of `--text`, `--file` or standard input, without white space around them."""
    lines = (line for _, line in text_lines(config.file)) if config.file else config.text or input_lines()
    texts = [line.strip() for line in lines]
    if not texts:
        raise InputError(f"{config.file or 'standard input'}: holds no text")
    return read_single_texts(texts, "--text" if config.text else "standard input")


def read_reference(config: Config, count: int) -> list[str]:
    """Returns the right translations; none if there is no `--reference`."""
    expected = [line.strip() for _, line in text_lines(config.reference)] if config.reference else []
    if config.reference and len(expected) != count:
        raise InputError(f"{config.reference}: has {len(expected)} lines, there are {count} texts")
    return expected


if __name__ == "__main__":
    cli.run(main, Config)
