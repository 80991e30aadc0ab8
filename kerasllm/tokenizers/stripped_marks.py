"""A word of warning if stripping accents takes letters' meaning from the words of a text.

BERT's uncased normalization removes all marks without a width of their own (Unicode's category Mn). In Latin
script these are accents; in Hindi and Thai they are vowels and tones, in Japanese they tell "ga" from "ka".
"""

import unicodedata
import warnings
from collections import Counter
from functools import lru_cache

from kerasllm.errors import InputWarning

_MANY = 0.05  # of the letters of a script; French has 4 %, Czech 11 %, Vietnamese and Hindi over 20 %
_LEAST = 0.01  # of all letters are of a script that is worth a word


def warn_of_stripped_marks(counts: Counter[str]) -> None:
    """Warns with an `InputWarning` if a script loses marks on more than one in twenty of its letters.

    Args:
        counts: the characters of a text and how often they occur, before they are normalized.
    """
    letters: Counter[str] = Counter()
    stripped: Counter[str] = Counter()
    for character, count in counts.items():
        script, is_stripped = _script(character)
        letters[script] += count
        stripped[script] += count * is_stripped
    del letters[""]
    total = sum(letters.values())
    found = [
        f"{script.capitalize()} ({100 * stripped[script] / count:.0f} % of its letters and marks)"
        for script, count in letters.most_common()
        if count > _LEAST * total and stripped[script] > _MANY * count
    ]
    if found:
        warnings.warn(
            f"stripping accents takes vowel signs, tones or accents from much of the text in {', '.join(found)}; "
            "keep them with --strip_accents false (strip_accents=False)",
            InputWarning,
            stacklevel=3,
        )


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> tuple[str, bool]:
    """Returns the script of a letter or mark, or "" for other characters, and whether a mark of it is stripped."""
    category = unicodedata.category(character)
    if category[0] not in "LM":
        return "", False
    words = unicodedata.name(character, "OTHER").split()
    is_general = words[0] == "COMBINING"  # a mark of several scripts, above all of Latin
    script = ("KATAKANA" if "KATAKANA-HIRAGANA" in words else "LATIN") if is_general else words[0]
    return script, any(unicodedata.category(part) == "Mn" for part in unicodedata.normalize("NFD", character))
