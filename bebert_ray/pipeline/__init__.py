"""A run: its steps, what each depends on, where each result is stored, what is due. No Ray."""
