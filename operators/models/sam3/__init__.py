"""SAM 3 by text: a noun phrase in, a masklet for each thing that it names out."""
