"""What leaves the house: how large a model is."""
