"""Data sets for `fit`, `evaluate` and `predict`, made from texts in memory; they read the batches of `data.batches`."""
