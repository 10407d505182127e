"""`vrshq app`: a local page to look through a run, to judge its answers, and to ask."""
