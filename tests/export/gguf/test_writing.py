"""GGUF files, read by the `gguf` package; llama.cpp itself is no package of Python's."""

import gguf
import numpy as np
import pytest

import kerasllm
from kerasllm.errors import InputError
from kerasllm.export.gguf.writing import write_gguf


def read(path):
    reader = gguf.GGUFReader(path)
    return reader.fields, {tensor.name: tensor for tensor in reader.tensors}


def rotated_in_pairs(kernel, heads):
    """As llama.cpp's converter orders a Llama's queries and keys, by its own words: halves become pairs."""
    outputs = kernel.shape[0]
    order = np.arange(outputs).reshape(heads, 2, outputs // heads // 2)
    return kernel[order.transpose(0, 2, 1).reshape(-1)]


def test_llama(make_gpt, byte_level_bpe, tmp_path):
    model = make_gpt("llama")
    report = write_gguf(model, byte_level_bpe, tmp_path, "float32")
    assert report["comparison"]["greatest_difference"] == 0
    fields, tensors = read(tmp_path / "model-f32.gguf")
    found = {
        name: fields[f"llama.{name}"].contents()
        for name in ("block_count", "attention.head_count", "attention.head_count_kv", "context_length")
    }
    assert list(found.values()) == [2, 4, 2, 64]
    assert fields["general.architecture"].contents() == "llama"
    joint = model.merged("block_0/query_key_value_kernel").T
    np.testing.assert_array_equal(tensors["blk.0.attn_q.weight"].data, rotated_in_pairs(joint[:32], 4))
    np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"].data, rotated_in_pairs(joint[32:48], 2))
    np.testing.assert_array_equal(tensors["blk.0.attn_v.weight"].data, joint[48:])
    np.testing.assert_array_equal(tensors["output.weight"].data, model.merged("head/kernel"))


def test_gpt2_and_its_tokenizer(make_gpt, byte_level_bpe, tmp_path):
    model = make_gpt()
    write_gguf(model, byte_level_bpe, tmp_path, "float32")
    fields, tensors = read(tmp_path / "model-f32.gguf")
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert [byte_level_bpe.token_to_id(token) for token in tokens] == list(range(300))
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[-1] == gguf.TokenType.CONTROL and set(kinds[:-1]) == {gguf.TokenType.NORMAL}
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 299
    assert "output.weight" not in tensors  # tied
    kernel = model.merged("block_1/intermediate_kernel")
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, kernel.T)


@pytest.mark.parametrize(
    ("precision", "kind", "least", "most"), [("float16", "F16", 1e-6, 1e-1), ("int8", "Q8_0", 1e-3, 1)]
)
def test_rounded_weights(precision, kind, least, most, make_gpt, byte_level_bpe, tmp_path):
    report = write_gguf(make_gpt("llama"), byte_level_bpe, tmp_path, precision)
    assert least < report["comparison"]["greatest_difference"] < most
    (path,) = tmp_path.iterdir()
    _, tensors = read(path)
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == kind
    assert tensors["blk.0.ffn_norm.weight"].tensor_type.name == "F32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "gelu"}, "activation is 'gelu': with learned positions, GGUF holds a GPT-2"),
        ({"positions": "rotary"}, "normalization is 'layer_norm': with rotary positions, GGUF holds a Llama"),
        ({"num_key_value_heads": 2}, "num_key_value_heads differs from num_heads"),
    ],
)
def test_other_shapes_are_named(changes, message, make_gpt, byte_level_bpe, tmp_path):
    with pytest.raises(InputError, match=message):
        write_gguf(make_gpt(**changes), byte_level_bpe, tmp_path, "float32")


def test_other_models_and_tokenizers_are_named(make_gpt, wordpiece, tmp_path):
    with pytest.raises(InputError, match="no byte-level BPE"):
        write_gguf(make_gpt(), kerasllm.train_characters(["abc"]), tmp_path, "float32")
    with pytest.raises(InputError, match="no byte-level BPE"):
        write_gguf(make_gpt(), wordpiece, tmp_path, "float32")
    bert = kerasllm.BertBackbone(
        kerasllm.BertConfig(vocabulary_size=9, num_layers=1, num_heads=1, hidden_dim=8)
    )
    with pytest.raises(InputError, match="a BertBackbone cannot be written to GGUF"):
        write_gguf(bert, wordpiece, tmp_path, "float32")
