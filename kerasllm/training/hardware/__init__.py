"""Choices that depend on the machine: precision and compilation, and how well it is used."""
