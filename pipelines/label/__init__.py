"""Labelling: instructions in, mask tables out. `run.py` is the entry."""
