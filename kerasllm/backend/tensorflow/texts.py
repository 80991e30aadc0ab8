"""The normalization of texts in TensorFlow's graph, for models that are exported with their tokenizer."""

import tensorflow as tf

# Control characters but tab and line ends, format characters, private ones, and the replacement character.
_DROPPED = r"[\x{0}-\x{8}\x{b}\x{c}\x{e}-\x{1f}\x{7f}-\x{9f}\x{fffd}\p{Cf}\p{Co}]"


def bert_normalized(texts, lowercase: bool):
    """Returns texts (batch,) as BERT's tokenizer normalizes them: without control characters; uncased, without marks.

    `FastBertTokenizer` itself would fold case by NFKC, which takes "…" for three points.

    Args:
        texts: a tensor of strings in UTF-8.
        lowercase: whether the tokenizer is uncased, which takes combining marks from letters, too.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805 (released code, `BasicTokenizer`).
    """
    texts = tf.strings.regex_replace(texts, _DROPPED, "")
    if not lowercase:
        return texts
    from tensorflow_text import normalize_utf8

    texts = tf.strings.regex_replace(normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
    # Letter by letter: as a text, "ΣΑΣ" would end in another letter than it begins with.
    texts = tf.strings.regex_replace(texts, "Σ", "σ")
    return tf.strings.lower(texts, encoding="utf-8")
