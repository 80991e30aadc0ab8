"""Keras callbacks that log, validate, guard and save a run."""
