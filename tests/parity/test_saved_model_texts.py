"""A SavedModel takes texts where tensorflow-text splits them as the tokenizer does, cased or not."""

import json


def test_texts(run_backend, tmp_path):
    run_backend("tensorflow", "saved_model_texts", tmp_path)
    reports = json.loads((tmp_path / "reports.json").read_text())
    for lowercase in ("False", "True"):
        assert reports[lowercase]["texts"]["greatest_difference"] < 1e-5 and not reports[lowercase]["notes"]
    assert reports["many"] == {"compared": 2000, "differ": 0}
