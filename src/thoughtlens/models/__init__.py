"""Latent reasoners: what one is, the families, checkpoints and bundled weights."""
