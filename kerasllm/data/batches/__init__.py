"""Batches for `fit`, pure functions of (seed, step)."""
