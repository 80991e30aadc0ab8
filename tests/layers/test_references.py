"""The blocks against NumPy on every backend, and against PyTorch's own layers on PyTorch."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import erf, softmax

from kerasllm.layers import TransformerDecoderBlock, TransformerEncoderBlock
from kerasllm.layers.attention import combined_mask

WIDTH, HEADS, INNER, EPSILON = 16, 4, 24, 1e-5
SETTINGS = {
    "num_heads": HEADS,
    "intermediate_dim": INNER,
    "layer_norm_epsilon": EPSILON,
    "activation": "gelu",
}
DRAW = np.random.default_rng(1)
HIDDEN = DRAW.normal(size=(3, 7, WIDTH)).astype("float32")
ENCODED = DRAW.normal(size=(3, 5, WIDTH)).astype("float32")
PADDING = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
ENCODER_PADDING = np.array([[1] * 5, [1] * 3 + [0] * 2, [1] * 2 + [0] * 3])
CAUSAL = np.tri(7, dtype=bool)[None, None]


def filled(block):
    block.build((None, None, WIDTH))
    draw = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(draw.normal(0.1, 0.3, weight.shape))
    return block


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


class Reference:
    """A block's computation in float64, from its weights by name."""

    def __init__(self, block):
        self.block = block
        self.weights = {weight.name: numpy(weight).astype("float64") for weight in block.weights}

    def projected(self, name, hidden):
        return hidden @ self.weights[f"{name}_kernel"] + self.weights.get(f"{name}_bias", 0.0)

    def norm(self, name, hidden):
        if self.block.normalization == "layer_norm":
            hidden = hidden - hidden.mean(-1, keepdims=True)
        hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + EPSILON)
        return hidden * self.weights[f"{name}_scale"] + self.weights.get(f"{name}_bias", 0.0)

    def attended(self, name, query, key, value, mask):
        head_dim = WIDTH // HEADS
        query, key, value = (
            part.reshape(*part.shape[:2], -1, head_dim).swapaxes(1, 2) for part in (query, key, value)
        )
        key, value = (part.repeat(HEADS // part.shape[1], axis=1) for part in (key, value))
        scores = np.where(mask, query @ key.swapaxes(-1, -2) / np.sqrt(head_dim), -np.inf)
        heads = softmax(scores, axis=-1) @ value
        return self.projected(name, heads.swapaxes(1, 2).reshape(*heads.shape[:1], -1, WIDTH))

    def to_itself(self, hidden, mask):
        projected = self.projected("query_key_value", hidden)
        key_width = (projected.shape[-1] - WIDTH) // 2
        parts = np.split(projected, [WIDTH, WIDTH + key_width], axis=-1)
        return self.attended("attention_output", *parts, mask)

    def to_encoder(self, hidden, encoded, mask):
        parts = np.split(self.projected("cross_attention_key_value", encoded), 2, axis=-1)
        query = self.projected("cross_attention_query", hidden)
        return self.attended("cross_attention_output", query, *parts, mask)

    def fed_forward(self, hidden):
        wide = self.projected("intermediate", hidden)
        if self.block.feed_forward == "gated":
            gate, up = np.split(wide, 2, axis=-1)
            return self.projected("output", gate / (1 + np.exp(-gate)) * up)
        return self.projected("output", wide / 2 * (1 + erf(wide / np.sqrt(2))))

    def run(self, hidden, *branches):
        """Through pairs of a norm's name and a function of hidden states."""
        for name, branch in branches:
            if self.block.normalize_first:
                hidden = hidden + branch(self.norm(name, hidden))
            else:
                hidden = self.norm(name, hidden + branch(hidden))
        return hidden


OPTIONS = {
    "": {},
    "rms": {"normalization": "rms_norm"},
    "gated": {"feed_forward": "gated", "activation": "silu"},
    "no bias": {"use_bias": False},
}
kinds = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
orders = pytest.mark.parametrize("normalize_first", [False, True], ids=["post-norm", "pre-norm"])


@orders
@kinds
def test_the_encoder_block_is_the_reference(options, normalize_first):
    block = filled(TransformerEncoderBlock(**SETTINGS | options, normalize_first=normalize_first))
    reference = Reference(block)
    expected = reference.run(
        HIDDEN.astype("float64"),
        ("attention_norm", lambda hidden: reference.to_itself(hidden, PADDING[:, None, None] == 1)),
        ("output_norm", reference.fed_forward),
    )
    np.testing.assert_allclose(numpy(block(HIDDEN, PADDING)), expected, rtol=1e-4, atol=1e-4)


@orders
@kinds
@pytest.mark.parametrize("key_value_heads", [HEADS, 2])
@pytest.mark.parametrize("crossed", [False, True], ids=["alone", "cross"])
def test_the_decoder_block_is_the_reference(options, normalize_first, key_value_heads, crossed):
    block = filled(
        TransformerDecoderBlock(
            **SETTINGS | options,
            normalize_first=normalize_first,
            cross_attention=crossed,
            num_key_value_heads=key_value_heads,
        )
    )
    reference, given = Reference(block), {}
    branches = [
        ("attention_norm", lambda hidden: reference.to_itself(hidden, CAUSAL)),
        ("feed_forward_norm", reference.fed_forward),
    ]
    if crossed:
        mask = ENCODER_PADDING[:, None, None] == 1
        given = {"encoder_hidden": ENCODED, "cross_attention_mask": combined_mask(ENCODER_PADDING)}
        branches.insert(
            1, ("cross_attention_norm", lambda hidden: reference.to_encoder(hidden, ENCODED, mask))
        )
    expected = reference.run(HIDDEN.astype("float64"), *branches)
    np.testing.assert_allclose(numpy(block(HIDDEN, **given)), expected, rtol=1e-4, atol=1e-4)


@orders
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_no_position_sees_a_later_one(normalize_first, dropout):
    """With dropout on, too: the draws are the same in both calls."""
    changed = HIDDEN.copy()
    changed[:, 4:] += 1
    found = []
    for hidden in (HIDDEN, changed):
        block = TransformerDecoderBlock(
            **SETTINGS,
            normalize_first=normalize_first,
            cross_attention=True,
            dropout=dropout,
            attention_dropout=dropout,
            seed=5,
        )
        found.append(numpy(filled(block)(hidden, encoder_hidden=ENCODED, training=True)))
    np.testing.assert_array_equal(found[0][:, :4], found[1][:, :4])
    assert np.abs(found[0][:, 4:] - found[1][:, 4:]).max() > 1e-2


@orders
def test_what_the_cross_attentions_mask_hides_is_not_seen(normalize_first):
    block = filled(TransformerDecoderBlock(**SETTINGS, normalize_first=normalize_first, cross_attention=True))
    mask = combined_mask(ENCODER_PADDING)
    hidden_part = np.where(ENCODER_PADDING[..., None] == 1, ENCODED, ENCODED + 7)
    found = [
        numpy(block(HIDDEN, encoder_hidden=encoded, cross_attention_mask=mask))
        for encoded in (ENCODED, hidden_part)
    ]
    np.testing.assert_array_equal(*found)
    unmasked = numpy(block(HIDDEN, encoder_hidden=ENCODED))
    assert np.abs(unmasked - found[0])[1:].max() > 1e-2


@orders
@pytest.mark.parametrize("key_value_heads", [HEADS, 2])
@pytest.mark.parametrize("beginning", [1, 3])
def test_cached_decoding_is_the_whole_pass(normalize_first, key_value_heads, beginning):
    """Of attention to itself and to the encoder, which is projected once."""
    block = filled(
        TransformerDecoderBlock(
            **SETTINGS,
            normalize_first=normalize_first,
            cross_attention=True,
            num_key_value_heads=key_value_heads,
        )
    )
    cross = {"cross_attention_mask": combined_mask(ENCODER_PADDING)}
    expected = numpy(block(HIDDEN, encoder_hidden=ENCODED, **cross))
    cross["cross_cache"] = block.cross_keys_and_values(ENCODED)
    shape = (len(HIDDEN) * key_value_heads, 9, WIDTH // HEADS)
    cache = (ops.zeros(shape), ops.zeros(shape))
    start, found = 0, []
    for length in (beginning, *[1] * (7 - beginning)):
        mask = None if length > 1 else ops.arange(9)[None, None, None] <= start
        hidden, cache = block(
            HIDDEN[:, start : start + length], mask, cache=cache, cache_position=start, **cross
        )
        found.append(numpy(hidden))
        start += length
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-5)


def test_masks_are_those_written_by_hand():
    padding, sequences = np.array([[0, 1, 1, 1]]), np.array([[-1, 0, 0, 1]])
    assert combined_mask() is combined_mask(is_causal=True) is None
    for with_padding, with_sequences, is_causal in itertools.product([False, True], repeat=3):
        if not (with_padding or with_sequences):
            continue
        found = combined_mask(
            padding if with_padding else None, sequences if with_sequences else None, is_causal=is_causal
        )
        expected = np.ones((1, 1, 4, 4), bool)
        for query, key in itertools.product(range(4), repeat=2):
            allowed = not (is_causal and key > query)
            allowed &= not with_sequences or sequences[0, query] == sequences[0, key]
            itself = query == key and (is_causal or with_sequences)
            allowed &= not with_padding or padding[0, key] == 1 or itself
            expected[0, 0, query, key] = allowed
        np.testing.assert_array_equal(np.broadcast_to(ops.convert_to_numpy(found), expected.shape), expected)


@orders
def test_blocks_of_a_functional_model_are_saved_and_loaded(normalize_first, tmp_path):
    """An encoder and a decoder, of one configuration each; the lengths are not known beforehand."""
    source, target = keras.Input((None, WIDTH)), keras.Input((None, WIDTH))
    options = {"normalize_first": normalize_first, "normalization": "rms_norm", "feed_forward": "gated"}
    encoder = TransformerEncoderBlock(**SETTINGS | options, standard_deviation=0.3, name="encoder")
    decoder = TransformerDecoderBlock(
        **SETTINGS | options, standard_deviation=0.3, cross_attention=True, name="decoder"
    )
    outputs = decoder(target, encoder_hidden=encoder(source))
    model = keras.Model([source, target], outputs)
    assert model.output_shape == (None, None, WIDTH)
    expected = model.predict([ENCODED, HIDDEN], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("decoder").get_config() == decoder.get_config()
    assert loaded.get_layer("encoder").get_config() == encoder.get_config()
    np.testing.assert_allclose(loaded.predict([ENCODED, HIDDEN], verbose=0), expected, atol=1e-6)


if keras.backend.backend() == "torch":
    import torch

    def tensor(array):
        return torch.from_numpy(np.ascontiguousarray(array))

    def copied(block, layer, names):
        """PyTorch's layer with the block's weights; names of ours and of theirs."""
        weights = {weight.name: numpy(weight) for weight in block.weights}
        state = {}
        for ours, theirs in names.items():
            attention = "attn" in theirs and "out_proj" not in theirs
            kernel, bias = ("in_proj_weight", "in_proj_bias") if attention else (".weight", ".bias")
            if ours == "cross_attention_query_key_value":
                parts = ["cross_attention_query", "cross_attention_key_value"]
                weights |= {
                    f"{ours}_{kind}": np.concatenate([weights[f"{part}_{kind}"] for part in parts], axis=-1)
                    for kind in ("kernel", "bias")
                }
            scale = weights.get(f"{ours}_scale")
            state[theirs + kernel] = tensor(weights[f"{ours}_kernel"].T if scale is None else scale)
            state[theirs + bias] = tensor(weights[f"{ours}_bias"])
        layer.load_state_dict(state)
        return layer.eval()

    NAMES = {"query_key_value": "self_attn.", "attention_output": "self_attn.out_proj"}
    NAMES |= {"attention_norm": "norm1", "intermediate": "linear1", "output": "linear2"}
    CROSS = {"cross_attention_query_key_value": "multihead_attn."}
    CROSS |= {"cross_attention_output": "multihead_attn.out_proj", "cross_attention_norm": "norm2"}

    @orders
    def test_the_encoder_block_is_pytorchs(normalize_first):
        block = filled(TransformerEncoderBlock(**SETTINGS, normalize_first=normalize_first))
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, INNER, activation="gelu", batch_first=True, norm_first=normalize_first
        )
        layer = copied(block, layer, NAMES | {"output_norm": "norm2"})
        with torch.no_grad():
            expected = layer(tensor(HIDDEN), src_key_padding_mask=tensor(PADDING == 0)).numpy()
        found = numpy(block(HIDDEN, PADDING))
        real = PADDING == 1  # PyTorch's fast path leaves out what padding computes
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=2e-5)

    @orders
    def test_the_decoder_block_is_pytorchs(normalize_first):
        block = filled(
            TransformerDecoderBlock(**SETTINGS, normalize_first=normalize_first, cross_attention=True)
        )
        layer = torch.nn.TransformerDecoderLayer(
            WIDTH, HEADS, INNER, activation="gelu", batch_first=True, norm_first=normalize_first
        )
        layer = copied(block, layer, NAMES | CROSS | {"feed_forward_norm": "norm3"})
        with torch.no_grad():
            expected = layer(
                tensor(HIDDEN),
                tensor(ENCODED),
                tgt_mask=tensor(~CAUSAL[0, 0]),
                memory_key_padding_mask=tensor(ENCODER_PADDING == 0),
            ).numpy()
        mask = combined_mask(tensor(ENCODER_PADDING))
        found = numpy(block(HIDDEN, encoder_hidden=ENCODED, cross_attention_mask=mask))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
