"""Encoding of records to token ids with labels, segments or learned positions."""
