"""Generation against the plain forward pass, and draws against NumPy."""

import dataclasses
import gc
import inspect
import itertools
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kerasllm import CausalLanguageModelLoss, GPTCausalLM, GPTConfig, backend
from kerasllm.errors import InputError
from kerasllm.generation import sampling
from kerasllm.generation.continuation import Settings
from kerasllm.generation.decoding import decoder_of, rounded_up

CONFIG = GPTConfig(
    vocabulary_size=40,
    num_layers=2,
    num_heads=4,
    hidden_dim=16,
    max_sequence_length=96,
    initializer_range=0.4,  # so that the likeliest token is no near tie
)
LLAMA = dataclasses.replace(
    CONFIG,
    normalization="rms_norm",
    positions="rotary",
    feed_forward="gated",
    activation="silu",
    num_key_value_heads=2,
    use_bias=False,
)
PROMPTS = [[5, 6, 7], list(range(1, 30)), [9]]


@pytest.fixture(scope="module")
def model():
    return GPTCausalLM(dataclasses.replace(CONFIG, num_layers=1), seed=1)


def next_logits(model, ids):
    """By the plain forward pass; what follows the last token is padding, which it does not see."""
    padded = np.zeros((1, 48), "int32")
    padded[0, : len(ids)] = ids
    return ops.convert_to_numpy(model({"token_ids": padded}))[0, len(ids) - 1].copy()


def greedy(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(next_logits(model, ids).argmax()))
    return ids


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_the_cache_changes_nothing(config):
    model = GPTCausalLM(config, seed=1)
    assert model.generate(PROMPTS, max_new_tokens=12) == [greedy(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_the_cache_in_bfloat16(config, bfloat16):
    """Each token chosen is the likeliest by a plain forward pass in float32, or within rounding of it."""
    config = dataclasses.replace(config, num_layers=1)
    wide = GPTCausalLM(config, seed=1)
    bfloat16()
    narrow = GPTCausalLM(config, seed=1)
    for prompts in ([PROMPTS[1]], PROMPTS):  # one row, and several
        for prompt, ids in zip(prompts, narrow.generate(prompts, max_new_tokens=12), strict=True):
            for end in range(len(prompt), len(ids)):
                scores = next_logits(wide, ids[:end])
                assert scores[ids[end]] >= scores.max() - 0.05 * np.abs(scores).max()


def test_forms_of_prompts(model):
    expected = greedy(model, [1, 2, 3], 5)
    for prompts in (np.array([[1, 2, 3]]), [[1, 2, 3]], ops.convert_to_tensor(np.array([[1, 2, 3]]))):
        found = model.generate(prompts, max_new_tokens=5)
        assert found.dtype == np.int32 and found.shape == (1, 8)
        assert found[0].tolist() == expected
    found = model.generate([1, 2, 3], max_new_tokens=5)
    assert found.shape == (8,) and found.tolist() == expected


def test_what_training_changes_counts():
    model = GPTCausalLM(dataclasses.replace(CONFIG, num_layers=1), seed=2)
    before = model.generate([3, 4], max_new_tokens=6).tolist()
    model.compile(keras.optimizers.SGD(5.0), loss=CausalLanguageModelLoss())
    model.train_on_batch({"token_ids": np.array([[3, 4, 5, 6]])}, np.array([[4, 5, 6, 7]]))
    after = model.generate([3, 4], max_new_tokens=6).tolist()
    assert after == greedy(model, [3, 4], 6)
    assert after != before


def test_a_window_shorter_than_the_columns_of_a_program():
    model = GPTCausalLM(dataclasses.replace(CONFIG, num_layers=1, max_sequence_length=20), seed=1)
    logits = ops.convert_to_numpy(model({"token_ids": np.array([[1, 2, 3]])}))[0, -1]
    assert model.generate([1, 2, 3]).tolist()[:4] == [1, 2, 3, int(logits.argmax())]
    assert model.generate([1] * 19).shape == (20,)


def test_as_many_as_there_is_room_for(model):
    assert model.generate([1] * 90).shape == (96,)


def test_prompts_of_similar_lengths_share_a_program(model):
    model.generate([1, 2, 3], max_new_tokens=8)
    before = decoder_of(model).traces
    model.generate([4, 5, 6, 7, 8, 9], max_new_tokens=8, stop_token_ids=[39])
    assert decoder_of(model).traces == before or keras.backend.backend() == "torch"
    assert [rounded_up(n) for n in (1, 32, 33, 256, 257, 1000)] == [32, 32, 64, 256, 320, 1024]


def test_models_are_let_go():
    model = GPTCausalLM(dataclasses.replace(CONFIG, num_layers=1, positions="rotary"), seed=3)
    model.generate([1], max_new_tokens=2)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_stop_tokens(model):
    whole = greedy(model, [5, 6], 20)
    stop = next(token for place, token in enumerate(whole[4:], 4) if token not in whole[2:place])
    cut = whole[: whole.index(stop, 2) + 1]
    assert model.generate([5, 6], max_new_tokens=20, stop_token_ids=[stop]).tolist() == cut
    rows = model.generate([[5, 6], [7, 8]], max_new_tokens=20, stop_token_ids=[stop], pad_token_id=0)
    assert rows[0].tolist() == cut + [0] * (rows.shape[1] - len(cut))
    other = greedy(model, [7, 8], 20)
    other = other[: other.index(stop, 2) + 1] if stop in other[2:] else other
    assert rows[1].tolist()[: len(other)] == other
    ending = GPTCausalLM(dataclasses.replace(model.config, end_token_id=stop), seed=1)
    assert ending.generate([5, 6], max_new_tokens=20).tolist() == cut


def letters():
    """A tokenizer of 40 letters."""
    vocabulary = {chr(65 + number): number for number in range(40)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="A"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def test_texts_stops_and_streams(model):
    tokenizer = letters()
    ids = greedy(model, [5, 6], 12)
    text = tokenizer.decode(ids)
    assert model.generate("FG", tokenizer=tokenizer, max_new_tokens=12) == text
    seen: list[int] = []
    streamed = model.generate(
        ["FG"], tokenizer=tokenizer, max_new_tokens=12, on_tokens=lambda row, new: seen.extend(new)
    )
    assert streamed == [text] and seen == ids[2:]
    stop = text[6:8]
    found = model.generate("FG", tokenizer=tokenizer, max_new_tokens=12, stop=stop)
    assert found == "FG" + text[2:][: text[2:].index(stop)]


def test_a_penalty_as_published(model):
    ids = [5, 6]
    for _ in range(8):
        logits = next_logits(model, ids)
        known = np.unique(ids)
        logits[known] = np.where(logits[known] < 0, logits[known] * 1.7, logits[known] / 1.7)
        ids.append(int(logits.argmax()))
    assert model.generate([5, 6], max_new_tokens=8, repetition_penalty=1.7).tolist() == ids


def test_draws_repeat_and_do_not_depend_on_the_batch(model):
    settings = {"max_new_tokens": 12, "temperature": 1.5}
    first = model.generate([1, 2, 3], seed=7, **settings).tolist()
    assert model.generate([1, 2, 3], seed=7, **settings).tolist() == first
    assert model.generate([1, 2, 3], seed=8, **settings).tolist() != first
    batch = model.generate([[1, 2, 3], list(range(20))], seed=7, **settings)
    assert batch[0] == first  # row 0 of any batch, whatever the padding


def test_beams_as_wide_as_the_vocabulary_find_the_likeliest_text():
    """Every text of three tokens, counted out: with a stop token, texts of one and two tokens compete."""
    config = dataclasses.replace(CONFIG, vocabulary_size=6, num_layers=1)
    model = GPTCausalLM(config, seed=3)
    stop = 4
    texts = list(itertools.product(range(6), repeat=3))
    every = np.array([[1, 2, *tokens] for tokens in texts])
    logits = ops.convert_to_numpy(model({"token_ids": every})).astype("float64")  # none sees what follows it
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for penalty in (0.0, 1.0, 2.0):
        scores = {}
        for tokens, found in zip(texts, log_probabilities, strict=True):
            text = tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
            total = sum(found[place + 1, token] for place, token in enumerate(text))
            scores[text] = total / len(text) ** penalty
        best = max(scores, key=scores.__getitem__)
        settings = {"num_beams": 36, "length_penalty": penalty, "stop_token_ids": [stop], "max_new_tokens": 3}
        assert model.generate([1, 2], **settings).tolist() == [1, 2, *best]


def test_beams_of_a_batch_are_those_of_each_prompt(model):
    settings = {"num_beams": 3, "max_new_tokens": 9, "repetition_penalty": 1.2, "stop_token_ids": [7]}
    alone = [model.generate(prompt, **settings).tolist() for prompt in PROMPTS]
    assert model.generate(PROMPTS, **settings) == alone
    assert alone != [model.generate(p, **settings | {"num_beams": 1}).tolist() for p in PROMPTS]
    seen = []
    model.generate(PROMPTS[:1], on_tokens=lambda row, tokens: seen.append(tokens), **settings)
    assert seen == [alone[0][3:]]


def kept(cut, logits, value):
    found = ops.convert_to_numpy(cut(ops.convert_to_tensor(logits), np.float32(value)))
    return found > -1e30


def test_cuts_against_numpy():
    logits = np.random.default_rng(0).normal(0, 2, (6, 50)).astype("float32")
    order = np.argsort(-logits, axis=-1)
    ranks = np.argsort(order, axis=-1)
    for top_k in (1, 2, 7, 50):
        np.testing.assert_array_equal(kept(sampling.keep_top_k, logits, top_k), ranks < top_k)
    probabilities = np.exp(logits.astype("float64"))
    probabilities /= probabilities.sum(-1, keepdims=True)
    descending = np.take_along_axis(probabilities, order, -1)
    before = np.cumsum(descending, axis=-1) - descending  # of all that are likelier
    for top_p in (0.05, 0.5, 0.9):
        expected = np.take_along_axis(before < top_p, ranks, -1)
        np.testing.assert_array_equal(kept(sampling.keep_top_p, logits, top_p), expected)
    for min_p in (0.01, 0.2, 1.0):
        expected = probabilities >= min_p * probabilities.max(-1, keepdims=True) * (1 - 1e-6)
        np.testing.assert_array_equal(kept(sampling.keep_min_p, logits, min_p), expected)


def test_draws_have_the_right_frequencies():
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    rows = np.arange(20_000)
    noise = ops.convert_to_numpy(sampling.gumbel_noise(3, ops.convert_to_tensor(rows), 5, 4))
    counts = np.bincount((np.log(probabilities) + noise).argmax(-1), minlength=4)
    expected = probabilities * len(rows)
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001
    assert np.abs(noise.mean() - 0.5772) < 0.02 and np.abs(noise.std() - np.pi / 6**0.5) < 0.02


@pytest.mark.parametrize(
    ("prompts", "settings", "fault"),
    [
        ([], {}, "no prompt|is empty"),
        ([[]], {}, "prompt 1 is empty"),
        ([1, 40], {}, "token 40, the model has tokens 0 to 39"),
        ([1] * 90, {"max_new_tokens": 7}, "make 97, the model has 96 positions"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([1], {"top_p": 1.5}, r"top_p is 1.5, it must lie in \(0, 1\]"),
        ([1], {"temperature": -1}, "temperature is -1"),
        ([1], {"repetition_penalty": 0}, "repetition_penalty is 0"),
        ([1], {"stop_token_ids": [40]}, "stop_token_ids holds 40"),
        ([1], {"stop": "x"}, "need the tokenizer"),
        ("text", {}, "needs the tokenizer"),
        ([0.5], {}, "give whole numbers"),
        ([1], {"num_beams": 0}, "num_beams is 0"),
        ([1], {"num_beams": 2, "top_k": 3}, "give one or the other"),
        ([1], {"length_penalty": 1e9}, "length_penalty is"),
    ],
)
def test_bad_input_is_named(model, prompts, settings, fault):
    with pytest.raises(InputError, match=fault) as refused:
        model.generate(prompts, **settings)
    assert "\n" not in str(refused.value)


def test_generate_shows_its_settings(model):
    """In its own signature and docstring, with the defaults that hold."""
    shown = inspect.signature(GPTCausalLM.generate).parameters
    fields = dataclasses.fields(Settings)
    assert {field.name: field.default for field in fields} == {
        name: shown[name].default for name in shown if name in {field.name for field in fields}
    }
    assert all(f"{name}: " in GPTCausalLM.generate.__doc__ for name in shown if name != "self")
    with pytest.raises(TypeError, match="'beams'"):
        model.generate([1], beams=3)


def test_the_first_of_equally_good_tokens_is_chosen():
    scores = np.array(
        [[1, 3, 3, -1], [-2, -5, -2, -2], [0, 0, 0, 7], [-3e38, -3e38, -3e38, -3e38]], "float32"
    )
    chosen = ops.convert_to_numpy(backend.decoding.argmax(ops.convert_to_tensor(scores)))
    assert chosen.tolist() == scores.argmax(-1).tolist() and chosen.dtype == np.int32


def test_weights_changed_in_bfloat16_count_and_old_ones_are_let_go():
    """What is converted once must not outlive the weights it was made of."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        config = dataclasses.replace(CONFIG, num_layers=1)
        model, other = (GPTCausalLM(config, lora_rank=2, seed=seed) for seed in (1, 7))
    finally:
        keras.config.set_dtype_policy(before)
    first = model.generate([[5, 6, 7]], max_new_tokens=8).tolist()
    assert model.generate([[5, 6, 7]], max_new_tokens=8).tolist() == first
    model.set_weights(other.get_weights())
    changed = model.generate([[5, 6, 7]], max_new_tokens=8).tolist()
    assert changed == other.generate([[5, 6, 7]], max_new_tokens=8).tolist() != first
    if keras.backend.backend() == "jax":
        converted = weakref.ref(decoder_of(model).weights()[0])
        model.set_weights(model.get_weights())
        gc.collect()
        assert converted() is None
