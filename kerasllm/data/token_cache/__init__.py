"""Corpora that are tokenized once, kept on the disk and mapped into memory."""
