"""Corpora that are tokenized once and mapped into memory ever after."""
