"""transformers' session of one text on one video, without what no later frame looks at.

The library keeps every frame and every output of a video. A session here has one frame at a time. After each frame it gives up
the outputs that are out of reach, so that what it keeps does not grow with the video; object pointers of the frames on which
SAM 3 conditions an object again (at most one in `recondition_every_nth_frame`) stay, because the library looks at all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

# What the tracker reads of an earlier frame: its memory, and the object's pointer.
_MEMORY = ("maskmem_features", "maskmem_pos_enc", "object_pointer")
_POINTER = ("object_pointer",)


class Pictures(Mapping[int, Tensor]):
    """The frames of a video as the library counts them, of which one is in memory."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.current: dict[int, Tensor] = {}

    def show(self, frame: int, picture: Tensor) -> None:
        """Puts a frame's picture (3, S, S) in the place of the one before."""
        self.current = {frame: picture}

    def __getitem__(self, frame: int) -> Tensor:
        return self.current[frame]

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.num_frames))


def forget(session: Any, frame: int, model: Any) -> None:
    """Drops what no frame after `frame` looks at, in forward tracking.

    Args:
        session: of transformers.
        frame: the last frame that the session has seen.
        model: of transformers, for how far it looks back.
    """
    sizes = model.tracker_model.config
    oldest_memory = frame + 2 - sizes.num_maskmem
    oldest = min(oldest_memory, frame + 2 - sizes.max_object_pointers_in_encoder)
    for outputs in session.output_dict_per_obj.values():
        tracked, conditioned = outputs["non_cond_frame_outputs"], outputs["cond_frame_outputs"]
        for index in [index for index in tracked if index < oldest]:
            del tracked[index]
        for index, output in tracked.items():
            _keep(output, _MEMORY if index >= oldest_memory else _POINTER)
        nearest = sorted(conditioned)[-sizes.max_cond_frame_num :] if sizes.max_cond_frame_num >= 0 else conditioned
        for index, output in conditioned.items():
            _keep(output, _MEMORY if index >= oldest_memory or index in nearest else _POINTER)
            _separate(output)
    by_frame = (
        *session.frames_tracked_per_obj.values(),
        *session.mask_inputs_per_obj.values(),
        session.obj_id_to_tracker_score_frame_wise,
        session.suppressed_obj_ids,
    )
    for values in by_frame:
        for index in [index for index in values if index <= frame]:
            del values[index]
    # of these lists the library asks only whether they have reached a length
    for lists, length in (
        (session.unmatched_frame_inds, model.hotstart_unmatch_thresh),
        (session.overlap_pair_to_frame_inds, model.hotstart_dup_thresh),
    ):
        for frames in lists.values():
            del frames[max(1, length) :]


def _separate(output: dict[str, Any]) -> None:
    """Copies tensors that are slices of a larger one, which otherwise stays in memory for all objects of its frame."""
    for name, value in output.items():
        if value.untyped_storage().nbytes() > value.nbytes:
            output[name] = value.clone()


def _keep(output: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in [name for name in output if name not in names]:
        del output[name]
