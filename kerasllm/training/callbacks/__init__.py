"""Keras callbacks that a run is watched with."""
