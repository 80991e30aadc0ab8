"""GGUF, llama.cpp's format, for GPTs in GPT-2's form and in Llama's.

Importing this package needs the package `gguf` (the extra of the same name).
"""
