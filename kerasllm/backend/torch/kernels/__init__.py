"""C++ kernels for a compiled step on a CPU."""
