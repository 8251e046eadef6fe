"""Quantizers as pure functions, and the layers that train through them."""
