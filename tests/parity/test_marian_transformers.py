"""The same weights in transformers' Marian and here: logits, greedy and beam search, and the way back."""

import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")
torch = pytest.importorskip("torch", reason="transformers computes with torch, which is not installed")

PAD, VOCABULARY = 39, 40


def their_outputs(model, data):
    names = {
        "input_ids": "encoder_token_ids",
        "attention_mask": "encoder_padding_mask",
        "decoder_input_ids": "decoder_token_ids",
    }
    inputs = {theirs: torch.tensor(data[ours]).long() for theirs, ours in names.items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs, output_attentions=True)
    return outputs.logits.numpy(), np.stack([layer.numpy() for layer in outputs.cross_attentions])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A random Marian of transformers, saved, with its logits and targets."""
    directory = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(2)  # most random models repeat one token
    config = transformers.MarianConfig(
        **{
            "vocab_size": VOCABULARY,
            "decoder_vocab_size": VOCABULARY,
            "d_model": 16,
            "scale_embedding": True,
        },
        **{
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
        },
        **{"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "activation_function": "swish"},
        **{
            "max_position_embeddings": 32,
            "pad_token_id": PAD,
            "eos_token_id": 0,
            "decoder_start_token_id": PAD,
        },
        forced_eos_token_id=None,
    )
    model = transformers.MarianMTModel._from_config(
        config, attn_implementation="eager"
    )  # tells its attention
    for name, parameter in model.named_parameters():
        if "embed_positions" in name:
            continue
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.3 if "shared" in name else 0.7)
    with torch.no_grad():
        model.model.shared.weight[PAD] = 0
        model.final_logits_bias[0, 3] = 0.01
    model.generation_config.bad_words_ids = [[PAD]]
    model.save_pretrained(directory / "marian")
    random = np.random.default_rng(0)
    source, target = random.integers(1, PAD, (4, 9)), random.integers(1, PAD, (4, 7))
    mask = np.arange(9) < np.array([[9], [6], [3], [8]])
    data = {
        "encoder_token_ids": np.where(mask, source, PAD).astype("int32"),
        "encoder_padding_mask": mask.astype("int32"),
        "decoder_token_ids": np.concatenate([np.full((4, 1), PAD), target[:, :-1]], axis=1).astype("int32"),
    }
    np.savez(directory / "data.npz", **data)
    sources = [[*row[real].tolist(), 0] for row, real in zip(source, mask, strict=True)]
    (directory / "sources.json").write_text(json.dumps(sources))
    width = max(map(len, sources))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in sources])
    targets = {}
    for beams in (1, 5):
        found = model.eval().generate(
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            num_beams=beams,
            max_new_tokens=10,
            do_sample=False,
        )
        targets[str(beams)] = [[t for t in row[1:] if t not in (PAD, 0)] for row in found.tolist()]
    return directory, data, their_outputs(model, data), targets


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_marian_is_the_same_there_and_back(backend, prepared, run_backend, tmp_path):
    directory, data, (logits, attention), targets = prepared
    run_backend(backend, "marian_outputs", directory, tmp_path)
    found = np.load(tmp_path / "logits.npz")
    np.testing.assert_allclose(found["logits"], logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["attention"], attention, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "targets.json").read_text()) == targets
    assert len({tuple(target) for target in targets["5"]}) > 1
    again, report = transformers.MarianMTModel.from_pretrained(
        tmp_path / "marian", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    np.testing.assert_allclose(their_outputs(again, data)[0], logits, rtol=0, atol=1e-5)
