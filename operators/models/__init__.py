"""Models: the description of a bundle, its weights, LoRA adapters, and one folder for each family and tracker."""
