"""Batches for `fit`, each a pure function of (seed, step)."""
