"""Labelling: the instruction table, settings, placement, workers, rows and the run itself."""
