"""Continuous batching against `generate`: each request gives the same text alone and beside any others."""

import numpy as np
import pytest
from keras import ops

from kerasllm import GPTCausalLM, GPTConfig, RecurrentConfig, RecurrentLM
from kerasllm.errors import InputError
from kerasllm.generation.continuation import Settings
from kerasllm.generation.slots import SlotRequest, Slots

VOCABULARY = 40


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(
        vocabulary_size=VOCABULARY,
        max_sequence_length=40,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        num_key_value_heads=1,
        positions="rotary",
        initializer_range=0.4,
    )
    return GPTCausalLM(config, seed=1)


@pytest.fixture(scope="module")
def slots(model):
    return Slots(model, 3)


def request(prompt, new=6, **settings):
    own = {
        name: settings.pop(name)
        for name in ("presence_penalty", "frequency_penalty", "alternatives")
        if name in settings
    }
    return SlotRequest(prompt, Settings(max_new_tokens=new, stop_token_ids=[], **settings), **own)


def served(slots, requests, order=None):
    """The new tokens and their log probabilities, of requests that come and go; slots are filled in `order`."""
    found = [[] for _ in requests]
    waiting, running = list(range(len(requests))), {}
    while waiting or running:
        for slot in order or range(slots.number):
            if slot not in running and waiting:
                running[slot] = waiting.pop(0)
                slots.put(slot, requests[running[slot]])
        chosen = slots.choose()
        for slot, number in list(running.items()):
            found[number].append((int(chosen.tokens[slot]), float(chosen.log_probabilities[slot])))
            if len(found[number]) == requests[number].settings.max_new_tokens:
                del running[slot]
                slots.free(slot)
        if running:
            slots.advance()
    return found


REQUESTS = [
    request([1, 2, 3], 7, temperature=0.0),
    request(list(range(35)), 5, temperature=1.1, seed=7),
    request(
        [9], 9, temperature=0.8, top_k=5, top_p=0.8, min_p=0.01, repetition_penalty=1.4, seed=3, first_row=2
    ),
    request([4, 4, 5, 6], 4, temperature=1.5, seed=3),
    request([4, 4, 5, 6], 4, temperature=1.5, seed=4),
]


def test_each_text_is_that_of_generate(model, slots):
    """Beside rows that draw, filter and penalize, a row does what it does alone; seeds and row numbers count."""
    for asked, found in zip(REQUESTS, served(slots, REQUESTS), strict=True):
        settings = {
            name: getattr(asked.settings, name)
            for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "first_row")
        }
        new = asked.settings.max_new_tokens
        expected = model.generate([list(asked.prompt)], max_new_tokens=new, stop_token_ids=[], **settings)
        assert [token for token, _ in found] == expected[0, len(asked.prompt) :].tolist()


def test_a_text_is_the_same_to_the_bit_in_any_company(slots):
    """Alone, in another slot, and beside others: the same tokens with the same log probabilities."""
    together = served(slots, REQUESTS)
    for order in ([2, 0, 1], [1, 2, 0]):
        assert served(slots, REQUESTS, order) == together
    for asked, found in zip(REQUESTS, together, strict=True):
        assert served(slots, [asked], [1]) == [found]


def test_penalties_by_hand(model, slots):
    """OpenAI's rule: the logits of new tokens fall by presence, and by frequency times how often they occurred."""
    prompt, tokens = [3, 5], []
    for _ in range(6):
        row = [*prompt, *tokens, *[0] * (6 - len(tokens))]  # of one length, as attention is causal
        logits = ops.convert_to_numpy(model({"token_ids": np.array([row])}))[0, len(tokens) + 1]
        counts = np.bincount(tokens, minlength=VOCABULARY)
        tokens.append(int((logits - 3 * (counts > 0) - 2 * counts).argmax()))
    asked = request(prompt, 6, presence_penalty=3, frequency_penalty=2)
    assert [token for token, _ in served(slots, [asked])[0]] == tokens
    assert tokens != [token for token, _ in served(slots, [request(prompt, 6)])[0]]


def test_log_probabilities_and_alternatives(model, slots):
    """They are the model's own, whatever the temperature."""
    slots.put(0, request([1, 2, 3], temperature=0.3, top_k=2, alternatives=4))
    chosen = slots.choose()
    slots.free(0)
    logits = ops.convert_to_numpy(model({"token_ids": np.array([[1, 2, 3]])}))[0, -1].astype("float64")
    expected = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(chosen.log_probabilities[0], expected[chosen.tokens[0]], atol=1e-5)
    tokens, values = chosen.alternatives
    assert tokens[0, :4].tolist() == np.argsort(-expected)[:4].tolist()
    np.testing.assert_allclose(values[0], np.sort(expected)[::-1][:20], atol=1e-5)


def test_what_slots_refuse():
    for wrong in ({"alternatives": 21}, {"presence_penalty": 1e9}, {"num_beams": 2}):
        with pytest.raises(InputError):
            request([1], **wrong)


def test_a_model_without_end_is_compiled_for_prompts_of_a_thousand_tokens(monkeypatch):
    """A recurrent model has room for a million tokens, and to run as many at the start would take minutes."""
    slots = Slots(RecurrentLM(RecurrentConfig(vocabulary_size=VOCABULARY, hidden_dim=4), seed=0), 2)
    lengths = []
    monkeypatch.setattr(slots, "put", lambda slot, request: lengths.append(len(request.prompt)))
    slots.compile()
    assert max(lengths) == 1024


def test_a_recurrent_model_continues_as_alone():
    """Its prompts run as in `generate`; on PyTorch a graph of as many steps as a prompt has tokens would be traced."""
    recurrent = RecurrentLM(RecurrentConfig(vocabulary_size=VOCABULARY, hidden_dim=8), seed=0)
    slots = Slots(recurrent, 2)
    prompts = [[3, 5, 7], [2] * 40]
    for slot, prompt in enumerate(prompts):
        slots.put(slot, SlotRequest(prompt, Settings()))
    chosen = []
    for _ in range(4):
        chosen.append(slots.choose().tokens)
        slots.advance()
    for slot, prompt in enumerate(prompts):
        alone = recurrent.generate([prompt], max_new_tokens=4)[0][len(prompt) :]
        assert [int(tokens[slot]) for tokens in chosen] == list(alone)
