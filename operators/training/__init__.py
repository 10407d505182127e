"""Training: losses, a differentiable forward pass of the whole model, what is trained and how fast. Knows no Ray, no files.

clip -> prompts -> frames before text -> [SEG], [TAK] -> TDA -> SAM2 around the keyframe -> losses -> step.
"""
