"""The reader of long files: PyAV by the index of their packets, without a decode of the whole file at opening."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vrshq.operators.video.files import DecodeConfig, Packets, VideoInfo, broken_at, open_container
from vrshq.operators.video.pyav_reader import ONE_FRAME_A_PACKET, SEEK_TRIES, SHORT_SKIP, to_rgb
from vrshq.operators.video.reader import DecodeCount, ReaderError

LONG_FRAMES = 3000  # a full decode of a file with fewer frames takes about as long as the check of this reader


def is_indexable(info: VideoInfo, packets: Packets, config: DecodeConfig) -> bool:
    """Whether the packets of a long file tell the time of each frame, and nothing says that some are damaged."""
    sure = packets.count > LONG_FRAMES and packets.doubt is None and info.codec in ONE_FRAME_A_PACKET
    whole = not (packets.flagged or packets.size_may_change or packets.lost_end)
    return sure and whole and config.decord and config.damaged == "refuse"


class IndexedReader:
    """Every frame that is decoded must bear the time that the packets give its index: a wrong seek cannot pass for the truth.

    At opening it compares some frames after a seek with those of a decode that comes from the keyframe before. Frames that it
    passes on the way to a wanted one are held, as the decoder gave them, up to `DecodeConfig.decord_bytes`: who goes backwards
    through the video by blocks finds the next blocks there.

    Raises ReaderError where the frames are not those of the packets, and InputError where the stream is damaged.
    """

    name = "pyav"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig) -> None:
        self._path, self._info, self._config, self._packets = path, info, config, packets
        self._keys = np.array([0, *packets.keys], np.int64)
        self._passed: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._most_passed = max(1, config.decord_bytes // (info.height * info.width * 3))
        self._to_rgb, self._to_mark = VideoReformatter(), VideoReformatter()
        self.num_frames = packets.count
        self.count = DecodeCount()
        self.notes: list[str] = []
        self._start()
        try:
            self._compare()
        except BaseException:
            self.close()
            raise

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in presentation order: (H, W, 3) uint8 RGB."""
        if index in self._passed:
            return self._rgb(self._passed[index])
        place = int(np.searchsorted(self._keys, index, "right"))
        first = self._next
        if index < self._next or self._keys[place - 1] - self._next > SHORT_SKIP:
            self._passed.clear()
            first = self._seek(index, place)
        while True:
            number, frame = self._next, self._take()
            if number == index:
                self.count.add(first, index + 1)
                return self._rgb(frame)
            self._passed[number] = frame
            if len(self._passed) > self._most_passed:
                self._passed.popitem(last=False)

    def close(self) -> None:
        """Releases the decoder."""
        self._passed.clear()
        self._container.close()

    def _compare(self) -> None:
        """Raises ReaderError unless frames after a seek equal those of a decode that comes from the keyframe before."""
        for place in dict.fromkeys([1, len(self._keys) // 2, len(self._keys) - 1]):
            if 0 < place < len(self._keys):
                key = int(self._keys[place])
                wanted = range(key, min(key + 3, self.num_frames))
                self._seek(key - 1, place)
                found = [self._marks(wanted)]
                self._seek(key, place + 1)
                found.append(self._marks(wanted))
                if found[0] != found[1]:
                    raise ReaderError(f"frame {key} looks different after a seek")

    def _marks(self, wanted: range) -> list[int]:
        """Checksums of some frames, which are ahead."""
        while self._next < wanted.start:
            self._take()
        small = (self._to_mark.reformat(self._take(), width=64, height=64, format="gray") for _ in wanted)
        return [zlib.crc32(frame.to_ndarray().tobytes()) for frame in small]

    def _start(self) -> None:
        self._container, self._stream = open_container(self._path, self._config)
        self._frames = self._container.decode(self._stream)
        self._next = 0  # index of the frame that comes next from self._frames
        self._ahead: av.VideoFrame | None = None

    def _seek(self, index: int, place: int) -> int:
        """Moves to some frame at or before `index`, and returns its index.

        Args:
            index: a frame.
            place: number of the keyframes at or before it.
        """
        for key in self._keys[max(0, place - SEEK_TRIES) : place][::-1].tolist():
            if key == 0:
                self._container.close()
                self._start()
                return 0
            try:
                self._container.seek(int(self._packets.pts[key]), stream=self._stream)
                self._frames = self._container.decode(self._stream)
                frame = next(self._frames, None)
            except (av.FFmpegError, MemoryError):
                continue
            found = -1 if frame is None or frame.pts is None else int(np.searchsorted(self._packets.pts, frame.pts))
            if frame is not None and 0 <= found <= index and self._packets.pts[found] == frame.pts:
                self._next, self._ahead = found, frame
                return found
        raise ReaderError(f"no keyframe before frame {index} can be reached")

    def _take(self) -> av.VideoFrame:
        """The next frame."""
        frame, self._ahead = self._ahead, None
        try:
            frame = frame or next(self._frames, None)
        except (av.FFmpegError, MemoryError) as error:
            raise broken_at(self._path, self._next, self.num_frames, error) from error
        if frame is None or frame.pts != self._packets.pts[self._next]:
            raise ReaderError(f"frame {self._next} does not come at its time")
        if frame.is_corrupt:
            raise broken_at(self._path, self._next, self.num_frames, ValueError("damaged frame"))
        self._next += 1
        return frame

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        rgb = to_rgb(self._to_rgb, frame, self._info.signal)
        if rgb.shape[:2] != (self._info.height, self._info.width):
            raise ReaderError(f"a frame of {rgb.shape[1]}x{rgb.shape[0]} pixels")
        return rgb
