"""Boosting and bagging: what each member trains on, and the vote of the members. NumPy alone.

Only `torch_vote` imports torch.
"""
