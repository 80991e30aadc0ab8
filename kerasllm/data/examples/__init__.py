"""From records to token ids with their alignment."""
