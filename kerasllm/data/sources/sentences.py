"""Splitting of text into sentences by rules: a regular expression finds boundaries, and Python rejects some of them.

A trained splitter would have to be shipped or downloaded, and would be slower than the tokenizer. Next-sentence
prediction needs boundaries that are nearly always right. In ambiguous cases ("in the U.S. Government", "in the U.S. He
left"), a boundary is accepted only if the next word commonly begins a sentence.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IDEOGRAPHIC_STOPS = "。！？｡"
_STOPS = ".!?…؟।॥" + _IDEOGRAPHIC_STOPS
_CLOSERS = "\"'”’»›)\\]}_*」』）】》〉"
_OPENERS = "\"'“‘«‹(\\[{_*¿¡„「『（【《〈–—-"
_LOWER_CASE = "".join(letter for letter in map(chr, range(0x80, 0x600)) if letter.islower())

# The first element is a plain set, so that the engine skips to the next stop without trying a match at every
# character. The look-behind lets a run of stops match only from its first one, which keeps "......" linear.
_BOUNDARY = re.compile(
    rf"[{_STOPS}](?<![{_STOPS}][{_STOPS}])[{_STOPS}]*+"
    rf"(?:(?<=[{_IDEOGRAPHIC_STOPS}])[{_CLOSERS}]*+\s*+"
    rf"|(?:[{_CLOSERS}]|\[\d{{1,3}}\])*+\s++(?=[{_OPENERS}]{{0,4}}+[^a-z{_LOWER_CASE}{_STOPS},;:)\]}}%&\s]))"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_WORD_BEFORE = re.compile(r"[^\W_](?:[\w.&]*[^\W_])?\Z")
_WORD_AFTER = re.compile(r"\W*(\w+(?:[’']\w+)?)")
_LONGEST_ABBREVIATION = 12

_TITLES = _words(
    "mr mrs ms dr prof rev hon gen col maj capt cpt cmdr lt sgt cpl messrs mme mlle gov sen rep pres supt "
    "insp"
)
_NEVER_LAST = _words("e.g i.e eg ie cf viz vs ca approx esp incl resp")
_BEFORE_NUMBERS = _words(
    "no nos nr fig figs eq eqs eqn vol vols pp ch chap sec sect art ex ref refs tab par pt bk ver app jan "
    "feb mar apr jun jul aug sept sep oct nov dec"
)
_SELDOM_LAST = _words(
    "st mt ft jr sr inc ltd co corp bros dept univ assn est ave blvd rd sq etc al eds ph.d b.sc m.sc"
)
_ABBREVIATIONS = _TITLES | _NEVER_LAST | _BEFORE_NUMBERS | _SELDOM_LAST
_OPENING_WORDS = _words(
    "the a an this that these those there here it he she we they you i his her its our their my your but "
    "and or so yet if when while where who what why how which whose as at in on by for from with without "
    "after before since although though because however moreover therefore thus then now still also "
    "another each every all some many most few several no not yes once until unless under over during "
    "despite both neither one two for instance it's that's there's he's she's we're they're you're i'm "
    "i'll don't let let's do does did is are was were can could should would may might must use note see "
    "return returns only just even such"
)


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, which lose only white space at the boundaries.

    A boundary is a full stop, question mark, exclamation mark or ellipsis, with closing quotes and brackets after it,
    followed by white space and by something other than a lower-case letter; or an ideographic stop (。！？), which
    needs no white space; or a blank line. Abbreviations, initials and the numbers of list items do not end a sentence,
    but some abbreviations do if the next word commonly begins a sentence.

    Args:
        text: a paragraph, of any length; line breaks within it count as spaces.

    Returns:
        The sentences in order, without surrounding white space; none is empty.
    """
    if "\n" in text and _BLANK_LINE.search(text):
        return [
            sentence
            for paragraph in _BLANK_LINE.split(text)
            for sentence in split_sentences(paragraph.strip("\n"))
        ]
    sentences = []
    text = text.strip()
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        stop = boundary.start()
        if (
            text[stop] == "."
            and text[stop + 1] not in _STOPS
            and _is_abbreviation(text, start, stop, boundary)
        ):
            continue
        end = boundary.end()
        sentences.append(text[start:end].rstrip())
        start = end
    if start < len(text):
        sentences.append(text[start:])
    return sentences


def split_paragraphs(text: str) -> list[str]:
    """Returns the sentences of a document in which each line is a paragraph.

    Args:
        text: paragraphs separated by line breaks.

    Returns:
        The sentences of all paragraphs in order; none extends across a line break.
    """
    return [sentence for paragraph in sentences_by_paragraph(text) for sentence in paragraph]


def sentences_by_paragraph(text: str) -> list[list[str]]:
    """Returns the sentences of each line of a document that is not empty; see `split_paragraphs`."""
    return [split_sentences(paragraph) for paragraph in text.split("\n") if paragraph]


def _is_abbreviation(text: str, start: int, stop: int, boundary: re.Match[str]) -> bool:
    """Returns whether the full stop at `stop`, in a sentence from `start`, belongs to an abbreviation or number."""
    window = max(start, stop - _LONGEST_ABBREVIATION)
    word = text[max(window, text.rfind(" ", window, stop) + 1) : stop]
    if len(word) > 1 and word.isalpha() and word.lower() not in _ABBREVIATIONS:
        return False  # the most common case
    found = _WORD_BEFORE.search(text, window, stop)
    if found is None:
        return False
    word = found.group()
    if word.isdigit():  # "1. Introduction": the number of a list's item or a heading
        return found.start() == start
    key = word.lower()
    if key in _NEVER_LAST or (key in _TITLES and word[0].isupper()):
        return True
    after = _WORD_AFTER.match(text, boundary.end())
    following = after.group(1).replace("’", "'") if after else ""
    if key in _BEFORE_NUMBERS:
        return following[:1].isdigit() or (len(following) == 1 and following not in "AI")
    if key in _SELDOM_LAST or key in _TITLES or (word[0].isalpha() and word[1::2] == "." * (len(word) // 2)):
        return following.lower() not in _OPENING_WORDS  # "U.S. Government", but "the U.S. He"
    return False
