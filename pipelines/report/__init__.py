"""Contact sheets and the HTML page of a run."""
