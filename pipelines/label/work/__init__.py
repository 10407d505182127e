"""The work on one unit, inside an actor."""
