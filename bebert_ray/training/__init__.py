"""The training loop, its losses, and the stages that lead from an encoder to the shared binary checkpoint."""
