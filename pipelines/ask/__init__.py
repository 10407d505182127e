"""One video and some sentences, without a table: a run directory, an overlay video and a contact sheet."""
