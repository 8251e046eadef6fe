"""Ray's room: which process runs a step, where, and what replaces it when it dies."""
