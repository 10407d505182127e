"""Training: losses, the differentiable forward pass of the whole model, trained parameters and optimisers. Without Ray.

clip -> prompts -> LLaMA over frames and text -> [SEG], [TAK] -> TDA -> SAM2 around the keyframe -> losses -> step.
"""
