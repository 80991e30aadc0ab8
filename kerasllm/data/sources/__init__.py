"""Readers of files and data sets: they yield records and pieces of text, and know no tokenizer."""
