"""Extraction of prose from docstrings, without code, doctests, tables, headings and markup.

Docstrings mix English with three kinds of markup (reStructuredText, numpydoc, Google's sections) and with ASCII
drawings. Blocks that are certainly not prose are recognized by their form. The rest is checked sentence by sentence,
as a check of a sentence needs no knowledge of the markup that produced it.
"""

import re

from kerasllm.data.sources.sentences import split_sentences


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FENCE = re.compile(r"^([ \t]*)(```|~~~).*?(?:^[ \t]*\2[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_UNDERLINE = re.compile(r"([=\-~^*+#\"'`.:_])\1{2,}$")
_TABLE_ROW = re.compile(r"\S[ ]{3,}\S|\||\+-{2,}|={2,}[ ]+={2,}|-{2,}[ ]+-{2,}|\t\S")
_ITEM = re.compile(r"(?:[*\-+•o]|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)]|#\.)\s+(?=\S)")
_FIELD = re.compile(
    r"[:@](?:param|parameter|arg|keyword|kwarg|raises?|returns?|rtype|type|ivar|cvar|var)\b[^:]*:\s*"
)
_PARAMETER = re.compile(r"[`*]*[\w.\[\]]+[`*]*(?:,\s*[`*]*\w+[`*]*)*\s*(?:\([^()]*\))?\s*:\s+(?=\S)")
_NUMPY_PARAMETER = re.compile(r"[*`]*\w[\w.]*[*`]*(?:, ?[*`.\w]+)*\s+:(?:\s|$).*$|\w+ : .*$")
_SECTION = re.compile(r"[A-Z][\w ]{2,30}:$")
_ARGUMENT_SECTION = re.compile(
    r"(?:Args|Arguments|Call arguments|Attributes|Raises|Keyword arguments|Parameters):$", re.I
)
_DIRECTIVE = re.compile(r"\.\.(?:\s|$)")
_PROSE_DIRECTIVE = re.compile(
    r"\.\.\s+(?:note|warning|tip|important|seealso|caution|hint|attention)::\s*", re.I
)
_SIGNATURE = re.compile(
    r"(?:(?:class|exception|async|def|classmethod|static\w*|property)\s+)*[\w.*]+\s?"
    r"\((?:[^()]*(?:\([^()]*\)[^()]*)*\)(?:\s*->.*)?|[^()]*,)$"
)
_SIGNATURE_PREFIX = re.compile(
    r"(?:[\w.]+\([^()]*\)\s*(?:->\s*[\w.\[\], ]+?)?\s*(?:--|:)"
    r"|'?[\w.]+'?(?:, '?[\w.]+'?)* --?|[A-Z]\w+(?:Error|Warning))\s+(?=\S)"
)
_OWNED_BY_NEXT_BLOCK = re.compile(r"See Also|References|Examples?|Usage|Authors?|Copyright", re.I)

# A text that must occur for the pattern to match, the pattern, and its replacement.
_INLINE = [
    ("](", re.compile(r"!?\[([^\[\]]+)\]\((?:[^()\s]|\([^()]*\))+\)"), r"\1"),  # [text](address)
    ("`", re.compile(r"`([^`<>]+?)\s*<[^`<>]+>`_{0,2}"), r"\1"),  # `text <address>`_
    ("`", re.compile(r":(?:py:|c:)?[a-z]+(?::[a-z]+)?:`[~!]?([^`]+)`"), r"\1"),  # :func:`name`
    ("``", re.compile(r"``([^`]+)``"), r"\1"),
    ("`", re.compile(r"`([^`']+)[`']_{0,2}"), r"\1"),
    (
        "*",
        re.compile(r"(?<![\w*])(\*{1,2})(?=\S)([^*\n]+?)(?<=\S)\1(?![\w*])"),
        r"\2",
    ),  # *emphasis*, **strength**
    ("|", re.compile(r"(?<!\w)\|([\w.-]+)\|(?!\w)"), r"\1"),
    ("]_", re.compile(r"\s*\[(?:\d+|[A-Z]\w+)\]_"), ""),  # a reference's mark
    ("_", re.compile(r"(?<=\w)_{1,2}(?=[\s.,;)]|$)(?<![a-z]_[a-z]_)(?<!__)"), ""),  # a reference_
    ('"', re.compile(r'"([^\s"]+)"'), r"\1"),  # "code", as Sphinx's plain text has it
    ("\\", re.compile(r"\\(?=[\s*`_|])"), ""),
    ("::", re.compile(r"::(?=\s|$)"), ":"),
]
_NOT_PROSE = re.compile(
    r"[{}|\\^~@#$©=]|://|www\.|>>>|<[-=<]|[-=]>|::|\.\.\s|\s[-+*/%<>]\s|\+\+|\(\)\.|\w\(\w+,\s*\w+[,)]"
    r"|[\"'`]\w*[\"'`],|__\w+__,|\[\[|\]\]|\[-?\d|-{2,}\w|\d,\s*\d+,|\.{4}|\(\s|\s\)|\s:\s|_\s|\s_\w"
    r"|\bTODO\b|\bXXX\b|\bnoqa\b|\bCopyright\b|[\x00-\x08\x0b-\x1f]"
)
_WORD = re.compile(r"[(\[\"'“‘]*[A-Za-z]+(?:['’-][A-Za-z]+)*[)\]\"'”’]*[.,;:!?]*[)\"'”’]*\Z")
_FUNCTION_WORDS = _words(
    "the a an of to is are in for and or if this that these be by with not as it its from on will can was "
    "has have you when which any all at into no only than there"
)
_VERB_ENDING = re.compile(r"[.!?][)\]\"'”’]*\Z")


def prose_sentences(docstring: str) -> list[str]:
    """Returns the sentences of a docstring that read as English prose, in order.

    Args:
        docstring: the docstring without its indentation (`inspect.cleandoc`).

    Returns:
        The sentences, without markup; each has at least four words and consists mostly of plain words.
    """
    return [
        sentence
        for block in _blocks(_FENCE.sub("\n", docstring.expandtabs()))
        for sentence in split_sentences(_plain(block))
        if _is_prose(sentence)
    ]


def _blocks(text: str) -> list[str]:
    """Returns the paragraphs and list items that may be prose, each joined into one line."""
    blocks: list[str] = []
    lines: list[str] = []  # lines of the current paragraph
    skip_deeper_than: int | None = None  # indentation of the line that introduced a literal block
    in_doctest = in_arguments = skip_section = False
    argument_indent = previous_indent = 0
    source = text.split("\n")

    def finish() -> None:
        if lines:
            blocks.append(_join(lines))
            lines.clear()

    for number, raw in enumerate(source):
        line = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        following = source[number + 1].strip() if number + 1 < len(source) else ""
        if not line:
            finish()
            in_doctest = False
            continue
        if skip_deeper_than is not None:
            if indent > skip_deeper_than:
                continue
            skip_deeper_than = None
        if _UNDERLINE.match(line):
            lines.clear()  # the heading above it
            continue
        if _UNDERLINE.match(following) and abs(len(following) - len(line)) <= 4:
            finish()
            skip_section = _OWNED_BY_NEXT_BLOCK.match(line) is not None
            in_arguments = False
            continue
        if skip_section or in_doctest or line.startswith((">>>", "... ", "In [", "Out[", "$ ", "% ")):
            finish()
            in_doctest = in_doctest or line.startswith((">>>", "In ["))
            continue
        if _PROSE_DIRECTIVE.match(line):
            finish()
            line = _PROSE_DIRECTIVE.sub("", line)
        elif _DIRECTIVE.match(line):
            finish()
            skip_deeper_than = indent
            continue
        if _SECTION.match(line):
            finish()
            in_arguments = _ARGUMENT_SECTION.match(line) is not None
            argument_indent = indent
            if line.startswith(("Example", "Usage", "Reference")):
                skip_deeper_than = None
            continue
        if in_arguments and indent <= argument_indent:
            in_arguments = False
        if _TABLE_ROW.search(line) or _NUMPY_PARAMETER.match(line) or _SIGNATURE.match(line):
            finish()
            continue
        item = _ITEM.match(line)
        field = _FIELD.match(line) or (_PARAMETER.match(line) if in_arguments else None)
        if not lines:
            field = field or _SIGNATURE_PREFIX.match(line)
        if item or field:
            finish()
            line = line[(item or field).end() :]  # type: ignore[union-attr]
            if field and line[:1].isalpha():
                line = line[0].upper() + line[1:]
        elif lines and indent != previous_indent and not (len(lines) == 1 and indent > previous_indent):
            finish()
        previous_indent = indent
        if line:
            lines.append(line)
        if line.endswith("::"):
            finish()
            skip_deeper_than = indent
    finish()
    return blocks


def _join(lines: list[str]) -> str:
    """Returns a paragraph's lines joined into one, with words that were broken at a hyphen repaired."""
    joined = " ".join(lines)
    return (
        re.sub(r"(?<=[a-z])- (?=[a-z])", "-", joined) if any(line.endswith("-") for line in lines) else joined
    )


def _plain(block: str) -> str:
    """Returns the block without inline markup."""
    for mark, pattern, replacement in _INLINE:
        if mark in block:
            block = pattern.sub(replacement, block)
    return " ".join(block.split())


def _is_prose(sentence: str) -> bool:
    """Returns whether a sentence reads as English: mostly plain words, some of them function words, and no code."""
    if not 15 <= len(sentence) <= 600 or sentence[-1] in ":,;([-/" or _NOT_PROSE.search(sentence):
        return False
    words = sentence.split()
    plain = sum(_WORD.match(word) is not None for word in words)
    if plain < 4 or plain < 0.75 * len(words) or len(max(words, key=len)) > 40:
        return False
    if sentence.count("(") != sentence.count(")") or sentence.count("[") != sentence.count("]"):
        return False
    if sentence.count('"') % 2 or sum(map(str.isalpha, sentence)) < 0.7 * (len(sentence) - len(words)):
        return False
    functional = sum(word.lower().strip(".,;:()\"'") in _FUNCTION_WORDS for word in words)
    if functional < 1 or (functional < 2 and _VERB_ENDING.search(sentence) is None):
        return False
    return sentence[0].isupper() or (_VERB_ENDING.search(sentence) is not None and functional > 2)
