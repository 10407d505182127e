"""Sa2VA's use of SAM2."""

from __future__ import annotations

from sam2.modeling.sam2_utils import MLP

from vrshq.operators.models.sa2va.config import Sa2vaSam2Config
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Usage

# Three masks, the best by predicted IoU; masks are not gated by the object score (pointers are); the whole
# square; prompted masks are remembered as they are.
USAGE = Usage(candidates=True, gated=False, square=True, mask_prompts=False)


def sa2va_segmenter(config: Sa2vaSam2Config) -> Segmenter:
    """SAM 2.0 as Sa2VA uses it, with the widths of its checkpoint."""
    segmenter = Segmenter(config, USAGE)
    decoder = segmenter.sam_mask_decoder
    if config.iou_head_hidden_dim != Sa2vaSam2Config.iou_head_hidden_dim:  # SAM2Base's width
        decoder.iou_prediction_head = MLP(
            config.d_model, config.iou_head_hidden_dim, decoder.num_mask_tokens, 3, sigmoid_output=True
        )
    return segmenter
