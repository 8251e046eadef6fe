"""What people see while a run works, and after it. No Ray here."""
