"""The PyAV reader: right by construction, and slow to open."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vrshq.operators.batch import InputError
from vrshq.operators.video import orientation
from vrshq.operators.video.files import DecodeConfig, Packets, VideoInfo, broken_at, open_container
from vrshq.operators.video.reader import DecodeCount, FrameCache

ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "vp9", "av1"})  # codecs in which each packet gives one frame
SHORT_SKIP = 16  # decoding this many frames is cheaper than a seek
SEEK_TRIES = 3  # keyframes to try before seeking is given up


class PyavReader:
    """Right by construction: one full decode at opening counts the frames and notes a mark (time and checksum) of each.

    Frames that the decode passes are offered to the cache. Later reads go on from where the decoder stands, or seek to
    a keyframe; after a seek each frame must bear the mark that the full decode noted at its index, else seeking is
    given up for this file and reading starts again at the first frame. Raises InputError where the stream breaks or a
    frame is damaged.
    """

    name = "pyav"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig, cache: FrameCache) -> None:
        self._path, self._info, self._config = path, info, config
        self._to_rgb, self._to_mark = VideoReformatter(), VideoReformatter()
        self._marks: list[tuple[int | None, int]] = []
        self._keys = [0]
        self.num_frames = packets.count
        self.count = DecodeCount()
        self._start()
        interlaced = False
        try:
            for index, frame in enumerate(self._frames):
                if index >= config.max_frames:
                    raise InputError(f"{path} has more than {config.max_frames:,} frames; raise limits.max_frames")
                if frame.is_corrupt:  # the decoder guessed a part of it, not the same way each time
                    raise broken_at(path, index, packets.count, ValueError("damaged frame"))
                self._marks.append(self._mark(frame))
                if frame.key_frame and index:
                    self._keys.append(index)
                interlaced = interlaced or frame.interlaced_frame
                if not cache.full:
                    cache.offer(index, self._rgb(frame))
            decoded = len(self._marks)
            if not decoded:
                raise InputError(f"{path} has no frame that can be decoded; expected at least one")
            # two fields of an interlaced frame may be two packets
            if decoded < packets.count and not packets.doubt and info.codec in ONE_FRAME_A_PACKET and not interlaced:
                missing = f"the decoder gives {decoded} frames for {packets.count} packets"
                raise broken_at(path, decoded, packets.count, ValueError(missing))
        except BaseException:
            self.close()
            raise
        self.num_frames = self._next = decoded
        self.count.add(0, decoded)
        self._places = {mark: index for index, mark in enumerate(self._marks)}
        self._times = [pts for pts, _ in self._marks if pts is not None]
        in_order = all(earlier < later for earlier, later in itertools.pairwise(self._times))
        self._seekable = in_order and len(self._times) == decoded

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in presentation order: (H, W, 3) uint8 RGB."""
        self.count.add(index, index + 1)
        place = bisect.bisect_right(self._keys, index) if self._seekable else 1
        keys = self._keys[max(0, place - SEEK_TRIES) : place]
        if index < self._next or keys[-1] - self._next > SHORT_SKIP:
            if keys[-1]:
                self._seek(index, keys[::-1])
            elif index < self._next:
                self._restart()
        while True:
            try:
                frame = next(self._frames, None)
            except InputError:
                if not self._sought:
                    raise
                frame = None
            if frame is not None and not (self._sought and self._mark(frame) != self._marks[self._next]):
                self._next += 1
                if self._next > index:
                    return self._rgb(frame)
            elif self._sought:
                self._give_up_seeking()
            else:
                raise InputError(
                    f"{self._path} gave {self.num_frames} frames, then {self._next}; was the file changed?"
                )

    def close(self) -> None:
        """Releases the decoder."""
        self._container.close()

    def _start(self) -> None:
        self._container, self._stream = open_container(self._path, self._config)
        self._frames = self._decode()
        self._next = 0  # index of the frame that comes next from self._frames
        self._sought = False

    def _restart(self) -> None:
        self.close()
        self._start()

    def _give_up_seeking(self) -> None:
        self._seekable = False
        self._restart()

    def _seek(self, index: int, keys: list[int]) -> None:
        """Moves to some frame at or before `index`; some containers only find a place near the keyframe that was asked for."""
        for key in keys:
            try:
                self._container.seek(self._times[key], stream=self._stream)
                self._frames = self._decode()
                for frame in self._frames:
                    place = self._places.get(self._mark(frame), index + 1)
                    if place <= index:
                        self._frames = itertools.chain([frame], self._frames)
                        self._next, self._sought = place, True
                        return
                    if frame.pts is None or frame.pts >= self._times[index]:
                        break
            except (av.FFmpegError, InputError):
                continue
        self._give_up_seeking()

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            yield from self._container.decode(self._stream)
        except (av.FFmpegError, MemoryError) as error:
            raise broken_at(self._path, len(self._marks), self.num_frames, error) from error

    def _mark(self, frame: av.VideoFrame) -> tuple[int | None, int]:
        small = self._to_mark.reformat(frame, width=64, height=64, format="gray")
        return frame.pts, zlib.crc32(small.to_ndarray().tobytes())

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        rgb = upright(self._to_rgb.reformat(frame, format="rgb24"), frame)
        if rgb.shape[:2] != (self._info.height, self._info.width):
            raise InputError(
                f"{self._path} changes its frame size to {rgb.shape[1]}x{rgb.shape[0]} in the middle; expected "
                f"{self._info.width}x{self._info.height} throughout; re-encode it"
            )
        return rgb


def upright(rgb: av.VideoFrame, source: av.VideoFrame) -> np.ndarray:
    """An rgb24 frame as an array, turned and mirrored as the frame it was made from asks for: (height, width, 3) uint8."""
    return orientation.of_frame(source).apply(rgb.to_ndarray())
