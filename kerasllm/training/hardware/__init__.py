"""The choices that depend on the machine, precision and compilation, and a measure of how well it is used."""
