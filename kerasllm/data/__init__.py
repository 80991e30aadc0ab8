"""From text to batches: corpora, sentences, tokenizers, the token store and what is drawn from it.

Import the modules by name: this package imports nothing, so that the processes which tokenise a corpus start
in a fraction of a second and load neither Keras nor a backend.
"""
