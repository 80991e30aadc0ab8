"""Tokenizers: training, loading, saving, special tokens and chat templates."""
