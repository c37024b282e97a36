"""Sparse autoencoders as units: features instead of neurons in the regressions of CircuitLasso (arXiv 2606.16939, section 3.3)."""

from mctrace_nb.sae import features, shortcut
from mctrace_nb.sae.autoencoder import Autoencoder, train_autoencoder
from mctrace_nb.sae.fidelity import fidelity
from mctrace_nb.sae.load import load_sae, save_sae

__all__ = ["Autoencoder", "features", "fidelity", "load_sae", "save_sae", "shortcut", "train_autoencoder"]
