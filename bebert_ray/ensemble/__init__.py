"""Ensembles: what each member is trained on, and how the members' outputs become one."""
