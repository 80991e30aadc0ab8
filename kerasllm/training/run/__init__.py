"""The run directory and what it holds."""
