"""Sparse autoencoders as units: features instead of neurons in the regressions of CircuitLasso (arXiv 2606.16939, section 3.3)."""
