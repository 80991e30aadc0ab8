"""From text to batches: sources, the token cache, examples and batches.

Import the modules by name: this package imports nothing, so that the processes which tokenize a corpus start
in a fraction of a second and load neither Keras nor a backend.
"""
