"""Boundaries by hand, what must hold for any text, and speed that does not turn quadratic."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.sources.sentences import split_paragraphs, split_sentences

CASES = [
    ("One is here. Two is there! Is three?", ["One is here.", "Two is there!", "Is three?"]),
    ("Mr. Smith met Dr. Jones. They spoke.", ["Mr. Smith met Dr. Jones.", "They spoke."]),
    ("Bring fruit, e.g. Apples, i.e. Malus. Done.", ["Bring fruit, e.g. Apples, i.e. Malus.", "Done."]),
    ("Smith vs. Jones was heard. It ended.", ["Smith vs. Jones was heard.", "It ended."]),
    ("We sold pens, ink, etc. The shop closed.", ["We sold pens, ink, etc.", "The shop closed."]),
    ("We sold pens, etc. Jones bought them.", ["We sold pens, etc. Jones bought them."]),
    ("See No. 5 and Fig. 3 here. No. He left.", ["See No. 5 and Fig. 3 here.", "No.", "He left."]),
    ("J. K. Rowling wrote it. C. S. Lewis did not.", ["J. K. Rowling wrote it.", "C. S. Lewis did not."]),
    ("It rose 3.5 points to 1,000.25 today. Good.", ["It rose 3.5 points to 1,000.25 today.", "Good."]),
    ("Well... what now? Wait... Nothing came.", ["Well... what now?", "Wait...", "Nothing came."]),
    ("Well… what now? Wait… Nothing.", ["Well… what now?", "Wait…", "Nothing."]),
    ("And . . . nothing . . . Then light.", ["And . . . nothing . . .", "Then light."]),
    ('"Go!" he said. "I will." She went.', ['"Go!" he said.', '"I will."', "She went."]),
    ("“Go!” he said. (It rained.) ‘Yes.’ So.", ["“Go!” he said.", "(It rained.)", "‘Yes.’", "So."]),
    ('He asked, "Why?" (He knew.) "Oh."', ['He asked, "Why?"', "(He knew.)", '"Oh."']),
    ("Really?! Yes!! No.", ["Really?!", "Yes!!", "No."]),
    (
        "the U.S. Government fell. In the U.S. The end.",
        ["the U.S. Government fell.", "In the U.S.", "The end."],
    ),
    ("At 5 p.m. we left. It was 5 p.m. He left.", ["At 5 p.m. we left.", "It was 5 p.m.", "He left."]),
    ("He is at Acme Inc. They make things.", ["He is at Acme Inc.", "They make things."]),
    ("Yahoo! is a firm. i shall not say.", ["Yahoo! is a firm. i shall not say."]),
    ("1. Open it. 2. Close it.", ["1. Open it.", "2. Close it."]),
    (
        "Wikipedia says so.[1] Others agree.[2][3] Fine.",
        ["Wikipedia says so.[1]", "Others agree.[2][3]", "Fine."],
    ),
    ("It cost 5. 6 people paid.", ["It cost 5.", "6 people paid."]),
    ("visit example.com or a.b.c now. Yes.", ["visit example.com or a.b.c now.", "Yes."]),
    ("Él vino. ¿Quién? Élan.", ["Él vino.", "¿Quién?", "Élan."]),
    ("Он пришёл. Она ушла. и всё.", ["Он пришёл.", "Она ушла. и всё."]),
    ("他来了。她走了！真的？“好。”完", ["他来了。", "她走了！", "真的？", "“好。”", "完"]),
    ("これは本です。あれは？ はい。", ["これは本です。", "あれは？", "はい。"]),
    ("A line\nbroken here. Next\none.", ["A line\nbroken here.", "Next\none."]),
    ("A heading\n\nA text. More.", ["A heading", "A text.", "More."]),
    ("No stop at all", ["No stop at all"]),
    ("  \n ", []),
    ("", []),
    ("...", ["..."]),
]


@pytest.mark.parametrize(("text", "sentences"), CASES)
def test_boundaries(text, sentences):
    assert split_sentences(text) == sentences


TEXTS = st.text(st.sampled_from(" \n\tabAB1.!?…。！“”\"'()[],-MrDIé漢"), max_size=60) | st.text(max_size=40)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_nothing_but_white_space_is_lost(text):
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_sentences_come_in_order_from_the_text(text):
    position = 0
    for sentence in split_sentences(text):
        position = text.index(sentence, position) + len(sentence)


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_no_sentence_crosses_a_paragraph(text):
    paragraphs = text.split("\n")
    assert split_paragraphs(text) == [s for paragraph in paragraphs for s in split_sentences(paragraph)]
    assert all("\n" not in sentence for sentence in split_paragraphs(text))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["The cat sat.", "Is it so?", "Go on!", "He paid 3.50 for it."]), max_size=8))
def test_plain_sentences_are_found_again(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize("unit", [".", ". ", '."', "a.", "\n", "Mr. ", "1. ", "x", ".  ", "( ", "。"])
def test_time_grows_with_length_only(unit):
    start = time.process_time()
    split_sentences(unit * (200_000 // len(unit)))
    split_sentences("A. " + unit.strip() * 100_000)
    assert time.process_time() - start < 2  # a quadratic search takes minutes


def test_long_paragraph_is_split_at_every_stop():
    assert len(split_sentences("All is well here. " * 5000)) == 5000
    assert not re.search(r"\s\Z", split_sentences("All is well here. " * 3)[0])
