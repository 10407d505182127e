"""The tables of a run directory, and the columns that travel on the way to them."""
