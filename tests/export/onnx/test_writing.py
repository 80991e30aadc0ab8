"""The directory of an export, 8-bit weights, and what happens when a file is wrong."""

import dataclasses

import numpy as np
import pytest

import kerasllm
from kerasllm.errors import InputError
from kerasllm.export.onnx import exporters
from kerasllm.export.onnx.writing import write_onnx


@pytest.fixture
def classifier(wordpiece, with_weights):
    config = kerasllm.BertConfig(
        vocabulary_size=150, num_layers=1, num_heads=2, hidden_dim=32, max_sequence_length=32
    )
    return with_weights(kerasllm.BertClassifier(config, label_names=["bad", "good"]))


def test_files_and_figures(classifier, wordpiece, tmp_path):
    def figures(model):
        scores = model.predict_on_batch({"token_ids": np.arange(12, dtype=np.int32).reshape(2, 6)})
        return {"sum": float(np.sum(scores)), "names": len(model.label_names)}

    report = write_onnx(classifier, wordpiece, tmp_path, "int8", figures)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
    }
    assert report["comparison"]["greatest_difference"] < 1e-5 and report["comparison"]["same_choice"] == 1
    small = report["int8"]
    assert 1e-5 < small["comparison"]["greatest_difference"] < 0.5
    assert small["before"]["sum"] == pytest.approx(small["after"]["sum"], abs=0.5)
    assert small["before"]["sum"] != small["after"]["sum"] and small["after"]["names"] == 2
    sizes = [(tmp_path / "onnx" / f"{name}.onnx").stat().st_size for name in ("model", "model_quantized")]
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_a_file_with_other_results_is_an_error(error, classifier, wordpiece, tmp_path, monkeypatch):
    right = exporters.exporter_of(classifier)
    wrong = dataclasses.replace(right, run=lambda *arguments: right.run(*arguments) + error)
    monkeypatch.setitem(exporters.EXPORTERS, kerasllm.BertConfig, wrong)
    with pytest.raises(InputError, match=r"results differ from the model's by .*, above"):
        write_onnx(classifier, wordpiece, tmp_path, "float32")


def test_gpt_with_weights_of_8_bits(make_gpt, byte_level_bpe, tmp_path):
    report = write_onnx(make_gpt("llama"), byte_level_bpe, tmp_path, "int8")
    assert (tmp_path / "generation_config.json").is_file()
    assert report["comparison"]["greatest_difference"] < 1e-4
    assert report["int8"]["comparison"]["same_choice"] > 0.8
