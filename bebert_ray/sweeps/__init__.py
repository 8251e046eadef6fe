"""Sweeps: many ensembles from one shared checkpoint, and the best that can be made of them."""
