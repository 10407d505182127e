"""Synthetic videos: moving shapes with instructions and exact masks, made from nothing but a seed.

scene -> coverage of pixels -> who hides whom -> paint; and, from the same scene, facts -> rules -> sentences.
"""

from vrshq.operators.synth.config import SPLITS, SynthConfig
from vrshq.operators.synth.records import KINDS, Expression, SynthObject, SynthVideo
from vrshq.operators.synth.video import VERSION, make_video

__all__ = ["KINDS", "SPLITS", "VERSION", "Expression", "SynthConfig", "SynthObject", "SynthVideo", "make_video"]
