"""The figures of encoders, and the texts that they put before others."""

import numpy as np
import pytest

from kerasllm import BertConfig, BertEncoder
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.data.examples.pairs import EncodedGroups
from kerasllm.errors import InputError
from kerasllm.tasks.embedding import group_figures
from kerasllm.tasks.sentence_encoder import SentenceEncoder
from kerasllm.tokenizers.wordpiece import train_wordpiece


def groups(members, scores=None):
    """Groups of texts whose tokens do not matter."""
    count = max(map(max, members)) + 1
    texts = EncodedTexts(np.zeros(count), np.zeros(count), np.arange(count + 1), 4, 0, 0)
    return EncodedGroups(texts, np.array(members), scores)


def test_ranks_by_hand():
    """Anchors 0, 1 and 0 again: the first finds its own second, as another positive of it is no candidate."""
    vectors = np.array([[1, 0], [0, 1], [0.9, 0.5], [1, 0.1], [0.1, 1], [1, 0.2]], np.float64)
    found = group_figures(vectors, groups([[0, 2], [1, 4], [0, 3]]))
    assert found == {"examples": 3, "mrr@10": 1.0, "recall@1": 1.0}
    found = group_figures(vectors, groups([[0, 2], [1, 4], [5, 3]]))
    assert found["recall@1"] == pytest.approx(2 / 3) and found["mrr@10"] == pytest.approx((1 / 2 + 1 + 1) / 3)


def test_equal_vectors_find_nothing():
    members = [[2 * number, 2 * number + 1] for number in range(20)]
    assert group_figures(np.ones((40, 3)), groups(members))["mrr@10"] == 0


def test_graded_pairs_are_correlated_with_cosines():
    angles = np.array([0, 0.2, 0, 0.6, 0, 1.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = group_figures(vectors, groups([[0, 1], [2, 3], [4, 5]], np.float32([5, 3, 1])))
    assert found["spearman"] == pytest.approx(1) and set(found) == {"examples", "pearson", "spearman"}


def test_prompts_come_before_texts(tmp_path):
    tokenizer = train_wordpiece(["query red blue green"] * 3, 60)
    config = BertConfig(vocabulary_size=60, num_layers=1, num_heads=2, hidden_dim=8, max_sequence_length=16)
    prompts = {"query": "query ", "passage": "green "}
    BertEncoder(config, prompts=prompts, seed=1).save_pretrained(tmp_path, tokenizer=tokenizer)
    encoder = SentenceEncoder.open(str(tmp_path))
    plain = encoder.encode(["query red", "green red"])
    np.testing.assert_allclose(encoder.encode(["red"], "query"), plain[:1], atol=1e-6)
    np.testing.assert_allclose(encoder.encode(["red"], "document"), plain[1:], atol=1e-6)
    with pytest.raises(InputError, match="has no prompt 'other'; its prompts: 'query', 'passage'"):
        encoder.encode(["red"], "other")
    with pytest.raises(InputError, match="sequence_length 17 is above the 16 positions"):
        encoder.encode(["red"], sequence_length=17)
    assert encoder.encode([]).shape == (0, 8)
    encoder.encode(["red " * 30, "red"])
    assert encoder.num_truncated == 1
