"""Training: the run directory, callbacks, checkpoints, optimizers and schedules."""
