"""A SavedModel takes texts where tensorflow-text splits them as the tokenizer does, and says so where it does not."""

import json


def test_texts(run_backend, tmp_path):
    run_backend("tensorflow", "saved_model_texts", tmp_path)
    reports = json.loads((tmp_path / "reports.json").read_text())
    assert reports["False"]["texts"]["greatest_difference"] < 1e-5 and not reports["False"]["notes"]
    (note,) = reports["True"]["notes"]  # it lowercases by other rules: "…" becomes three points
    assert "tensorflow-text splits" in note and "texts" not in reports["True"]
