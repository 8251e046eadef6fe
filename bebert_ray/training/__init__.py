"""The training loop, its losses, and the stages from an encoder to a binary model."""
