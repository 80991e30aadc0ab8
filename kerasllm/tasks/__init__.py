"""Tasks: for each its loss, metrics, figures and predictions."""
