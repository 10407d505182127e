"""Decode: from a unit's `video_uri` to an open `Video`, whose frame index means presentation order.

The index of a frame is its place in the order in which a full sequential decode of the file yields frames, for every
container and codec. decord reads the files on which it was checked to keep that promise; PyAV, slower to open, reads
the others.

Not guaranteed: decord does not tell that it patched a frame after bit errors, PyAV does; a transport stream that was
cut short looks like a shorter one (its container states no length).
"""

from __future__ import annotations

from vrshq.operators.batch import Batch, Unit, map_units, once
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.span import Span
from vrshq.operators.video.video import open_video


class Decode:
    """Opens the video of each unit.

    In: `video_uri` (str, a local path); `start`, `end` (int or None, the span of the video as in `Span`; both may be missing);
    `kept` (live, may be missing: it may hold the open video).

    Out: `video` (Video, open; whoever finishes the batch calls `close_videos`), `num_frames` (int, frames of the span),
    `total_frames` (int, frames of the whole video), `frame_range` (3 int: start, end, every; the numbers of the span's frames
    in the video), `height`, `width` (int; in pixels, upright), `pixel_aspect` (float, width of a pixel over its height),
    `video_note` (str, what a user should know about the frames, such as damage; None where there is nothing). All are None
    where the video failed.

    Cost: CPU only. Opening reads the file once and decodes some 50 frames (all of them where PyAV has to read it). Each
    open video holds up to `frame_cache_bytes` besides its decoder. Where that is decord it holds a run of frames, too: up
    to 64 frames or 32 MiB, or one group of pictures where that is more; at most `decord_bytes`.
    """

    name = "decode"

    def __init__(self, config: DecodeConfig | None = None) -> None:
        self.config = config or DecodeConfig()

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        columns = (
            "video",
            "num_frames",
            "total_frames",
            "frame_range",
            "height",
            "width",
            "pixel_aspect",
            "video_note",
        )
        empty = dict.fromkeys(columns)
        return map_units(self.name, batch, self._open, empty)

    def _open(self, unit: Unit) -> Unit:
        span = Span(unit.get("start"), unit.get("end"), self.config.every)
        video = once(unit, "video", lambda: open_video(unit["video_uri"], self.config, span))
        return {
            "video": video,
            "num_frames": video.num_frames,
            "total_frames": video.total_frames,
            "frame_range": [video.frame_range.start, video.frame_range.stop, video.frame_range.step],
            "height": video.height,
            "width": video.width,
            "pixel_aspect": video.pixel_aspect,
            "video_note": video.note,
        }
