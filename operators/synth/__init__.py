"""Synthetic videos: moving shapes with instructions and exact masks, all determined by a seed.

Pixels: scene -> coverage -> occlusion -> drawing. Instructions, from the same scene: facts -> rules -> wordings.
"""

from vrshq.operators.synth.config import SPLITS, SynthConfig
from vrshq.operators.synth.records import KINDS, Expression, SynthObject, SynthVideo
from vrshq.operators.synth.video import VERSION, make_video

__all__ = ["KINDS", "SPLITS", "VERSION", "Expression", "SynthConfig", "SynthObject", "SynthVideo", "make_video"]
