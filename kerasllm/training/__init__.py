"""The driver of a training run and its parts."""
