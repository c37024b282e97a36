"""CircuitLasso: sparse regression between what components say, as an observational rival of intervention (arXiv 2606.16939)."""
