"""The PyAV reader: right by construction, and slow to open."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vrshq.operators.batch import InputError
from vrshq.operators.video import orientation
from vrshq.operators.video.damage import Damage, decoded, places_of_gaps, places_of_missing
from vrshq.operators.video.files import NO_KEYFRAME, DecodeConfig, Packets, VideoInfo, broken_at, open_container
from vrshq.operators.video.reader import DecodeCount, FrameCache
from vrshq.operators.video.size_change import scaled, size_note
from vrshq.operators.video.tone_map import to_sdr

ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "vp9", "av1"})  # codecs in which each packet gives one frame
SHORT_SKIP = 16  # decoding this many frames is cheaper than a seek
SEEK_TRIES = 3  # keyframes to try before seeking is given up


class PyavReader:
    """Right by construction: one full decode at opening counts the frames and notes a mark (time and checksum) of each.

    Frames that the decode passes are offered to the cache. Later reads go on from where the decoder stands, or seek to
    a keyframe; after a seek each frame must bear the mark that the full decode noted at its index, else seeking is
    given up for this file and reading starts again at the first frame. A damaged stream is read from its first frame
    each time, by one thread: only then is each frame patched up in the same way.

    Raises InputError where frames are lost or damaged, or the frame size changes, and the configuration refuses it. A frame
    that was damaged on the way of a transport stream is not refused.
    """

    name = "pyav"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig, cache: FrameCache) -> None:
        self._path, self._info, self._config = path, info, config
        self._to_rgb, self._to_mark = VideoReformatter(), VideoReformatter()
        self.num_frames = packets.count
        self.count = DecodeCount()
        try:
            damage = self._read_all(packets, cache)
            if damage and config.num_threads > 1:
                self._config = replace(config, num_threads=1)
                self.close()
                cache.clear()
                damage = self._read_all(packets, cache)
        except BaseException:
            self.close()
            raise
        self.num_frames = self._next = len(self._marks)
        self.count.add(0, self.num_frames)
        self._places = {mark: index for index, mark in enumerate(self._marks)}
        in_order = all(earlier < later for earlier, later in itertools.pairwise(self._times))
        self._seekable = in_order and len(self._times) == self.num_frames and not damage
        self.notes = [damage.note(self.num_frames)] if damage else []
        if self._sizes:
            self.notes.append(size_note(self._sizes, (info.height, info.width)))

    def _read_all(self, packets: Packets, cache: FrameCache) -> Damage:
        """Decodes all frames once, and tells what is wrong with them."""
        self._marks: list[tuple[int | None, int]] = []
        self._keys = [0]
        self._sizes: list[tuple[int, int, int]] = []  # the first frame of each new size, and that size
        self._failures: list[int] = []  # frames that were decoded before each error
        self._start()
        faulty = []
        interlaced = False
        stored = None
        for index, frame in enumerate(self._frames):
            if index >= self._config.max_frames:
                raise InputError(
                    f"{self._path} has more than {self._config.max_frames:,} frames; raise limits.max_frames"
                )
            if frame.is_corrupt:
                if self._config.damaged == "refuse" and frame.pts not in packets.excused:
                    raise broken_at(self._path, index, packets.count, ValueError("damaged frame"))
                faulty.append(index)
            if stored != (frame.height, frame.width):
                stored = (frame.height, frame.width)
                self._note_size(index, frame)
            self._marks.append(self._mark(frame))
            if frame.key_frame and index:
                self._keys.append(index)
            interlaced = interlaced or frame.interlaced_frame
            if not cache.full:
                cache.offer(index, self._rgb(frame, index))
        if not self._marks:
            raise InputError(f"{self._path} has no frame that can be decoded; expected at least one")
        self._times = [pts for pts, _ in self._marks if pts is not None]
        # two fields of an interlaced frame may be two packets; a sound stream may begin inside a group of pictures
        sure = not packets.doubt or (packets.doubt == NO_KEYFRAME and bool(packets.flagged))
        countable = sure and self._info.codec in ONE_FRAME_A_PACKET and not interlaced
        damage = self._damage(packets, faulty, countable)
        if damage.lost_after and self._config.damaged == "refuse":
            lost = ValueError(f"{len(damage.lost_after)} frames are lost")
            raise broken_at(self._path, damage.lost_after[0] + 1, len(self._marks) + len(damage.lost_after), lost)
        return damage

    def _damage(self, packets: Packets, faulty: list[int], countable: bool) -> Damage:
        found = len(self._marks)
        times = np.sort(np.array(self._times, np.int64))
        lost = [number - 1 for number in self._failures]
        if countable:
            missing = packets.count - found
            places = places_of_missing(packets.pts, times)
            lost = places if len(places) == missing else [*lost, *[found - 1] * missing][: max(0, missing)]
        if packets.flagged and self._info.container == "mpegts":  # it may have lost whole packets, too
            known, untimed = (packets.pts, 0) if countable else (times, found - len(times))
            gaps = places_of_gaps(known)[untimed:]  # a frame without a time fills one
            lost = sorted([*lost, *(np.searchsorted(times, known[gaps], "right") - 1).tolist()])
        places = [] if faulty or lost else sorted({min(number, found - 1) for number in packets.flagged})
        return Damage(faulty, lost, packets.lost_end, places)

    def _note_size(self, index: int, frame: av.VideoFrame) -> None:
        height, width = orientation.of_frame(frame).size(frame.height, frame.width)
        if (height, width) != (self._info.height, self._info.width) and self._config.size_change == "refuse":
            raise self._changes_size(index, height, width)
        if index:
            self._sizes.append((index, height, width))

    def _changes_size(self, index: int, height: int, width: int) -> InputError:
        return InputError(
            f"{self._path} changes its frame size to {width}x{height} in the middle, at frame {index}; expected "
            f"{self._info.width}x{self._info.height} throughout; re-encode it, or set decode.size_change to scale"
        )

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
                    return self._rgb(frame, index)
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
        return decoded(self._container, self._stream, self._on_error)

    def _on_error(self, error: BaseException) -> None:
        if self._config.damaged == "refuse" or self._sought:
            raise broken_at(self._path, len(self._marks), self.num_frames, error) from error
        self._failures.append(len(self._marks))

    def _mark(self, frame: av.VideoFrame) -> tuple[int | None, int]:
        small = self._to_mark.reformat(frame, width=64, height=64, format="gray")
        return frame.pts, zlib.crc32(small.to_ndarray().tobytes())

    def _rgb(self, frame: av.VideoFrame, index: int) -> np.ndarray:
        rgb = to_rgb(self._to_rgb, frame, self._info.signal)
        size = (self._info.height, self._info.width)
        if rgb.shape[:2] == size:
            return rgb
        if self._config.size_change == "refuse":
            raise self._changes_size(index, *rgb.shape[:2])
        return scaled(rgb, size)


def to_rgb(reformatter: VideoReformatter, frame: av.VideoFrame, signal: str | None) -> np.ndarray:
    """A frame as displayed, mapped to SDR where there is a `signal` (see `VideoInfo`): (height, width, 3) uint8 RGB."""
    if signal is None:
        return upright(reformatter.reformat(frame, format="rgb24"), frame)
    return orientation.of_frame(frame).apply(to_sdr(reformatter.reformat(frame, format="rgb48le").to_ndarray(), signal))


def upright(rgb: av.VideoFrame, source: av.VideoFrame) -> np.ndarray:
    """An rgb24 frame as an array, turned and mirrored as the frame it was made from asks for: (height, width, 3) uint8."""
    return orientation.of_frame(source).apply(rgb.to_ndarray())
