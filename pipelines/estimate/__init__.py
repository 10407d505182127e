"""What a model needs of a GPU, from its sizes alone: memory by part, seconds by stage."""
