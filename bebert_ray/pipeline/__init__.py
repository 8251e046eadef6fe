"""A run: what is made of what, where it lies, and what is due. No Ray here."""
