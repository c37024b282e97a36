"""Entropy-aware on-policy distillation (Jin et al., arXiv 2603.07079) at a size at which it can be watched."""
