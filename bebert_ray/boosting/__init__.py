"""What each member trains on, and what the members' outputs come to together: NumPy alone."""
