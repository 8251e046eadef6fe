"""Distributed training, on Ray, of ensembles of binary BERTs."""

__version__ = "0.1.0"
