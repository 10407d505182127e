"""Open videos: frames by their index in presentation order.

The index of a frame is its place in the order in which a full sequential decode of the file yields frames, for every
container and codec. decord reads the files on which it was checked to keep that promise; PyAV, slower to open, reads
the others.

Not guaranteed: decord does not tell that it patched a frame after bit errors, PyAV does; a transport stream that was
cut short looks like a shorter one (its container states no length).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import numpy as np
from PIL import Image

from vrshq.operators.batch import InputError
from vrshq.operators.video.animation import AnimationReader, image_kind, inspect_animation
from vrshq.operators.video.choose_reader import open_reader
from vrshq.operators.video.files import DecodeConfig, Packets, VideoInfo, inspect_video, local_path
from vrshq.operators.video.folder import inspect_folder
from vrshq.operators.video.image_reader import ImageReader
from vrshq.operators.video.pyav_reader import PyavReader
from vrshq.operators.video.reader import FrameCache, Reader, ReaderError
from vrshq.operators.video.span import WHOLE, Span


def probe(path: str, config: DecodeConfig | None = None) -> VideoInfo:
    """What a video file or folder of frames holds, without decoding it: reads headers, packets and one frame.

    Raises InputError as `open_video` does, but for what only a decode can find.
    """
    config = config or DecodeConfig()
    absolute = local_path(path, config)
    if absolute.is_dir():
        return inspect_folder(absolute, config)[0]
    kind = image_kind(absolute)
    return inspect_animation(absolute, kind, config) if kind else inspect_video(absolute, config)[0]


def open_video(path: str, config: DecodeConfig | None = None, span: Span = WHOLE) -> Video:
    """Opens a local video file, an animated image (GIF, APNG, WebP), or a folder of numbered frames.

    The frames of a folder may be JPEG, PNG, WebP, BMP and TIFF.

    Raises InputError, one line with the path, for what is missing, unreadable, not a video, without frames, above a
    limit of `config`, cut short, or (where PyAV has to read it) broken anywhere so that frames are lost. With
    `damaged` "keep" such a video has the frames that are left; `Video.note` tells how many are lost and where. Costs one read
    of the file and the check of decord; where PyAV has to read it, one decode, whose frames go to the cache.
    """
    return Video(path, config or DecodeConfig(), span)


class Video:
    """An open video: frames by presentation index. A context manager; not for use by several threads at once.

    Frames are (height, width, 3) uint8 RGB arrays, upright as displayed, and belong to the caller. Those that fit in
    `frame_cache_bytes` are kept once decoded, the others are decoded again when they are asked for again; ascending
    indices are cheapest. To go backwards through a video larger than the cache, ask for blocks of frames, not for
    single ones: in each call they are read in ascending order.

    Reading raises IndexError for an index outside 0..num_frames-1, and InputError that names the frame where the stream
    breaks or a frame's file is broken: a video never comes out shorter or with repeated frames.
    """

    source: str
    total_frames: int
    frame_range: range  # the numbers, in the whole video, of the frames that this one has
    num_frames: int  # length of `frame_range`
    height: int  # in pixels, as displayed
    width: int
    pixel_aspect: float  # width of a pixel over its height; 1.0 where pixels are square
    reader_reason: str  # why this reader

    def __init__(self, path: str, config: DecodeConfig, span: Span = WHOLE) -> None:
        self.source = path
        self._config = config
        self._path = local_path(path, config)
        self._cache = FrameCache(config.frame_cache_bytes)
        self._packets: Packets | None = None
        self._reader: Reader
        if self._path.is_dir():
            self._info, files = inspect_folder(self._path, config)
            self._reader, self.reader_reason = ImageReader(files, self._info), "folder of frames"
        elif kind := image_kind(self._path):
            self._info = inspect_animation(self._path, kind, config)
            self._reader = AnimationReader(self._path, kind, self._info, config)
            self.reader_reason = "animated image"
        else:
            self._info, self._packets = inspect_video(self._path, config)
            self._reader, self.reader_reason = open_reader(self._path, self._info, self._packets, config, self._cache)
        self._counts = [self._reader.count]
        self.total_frames = self._reader.num_frames
        try:
            self.frame_range = span.frames(path, self.total_frames)
        except InputError:
            self._reader.close()
            raise
        self.num_frames = len(self.frame_range)
        self.height, self.width = self._info.height, self._info.width
        self.pixel_aspect = self._info.pixel_aspect
        self._closed = False

    @property
    def reader(self) -> str:
        """Who reads the file: "decord", "pyav", "pillow" (animated images) or "images" (folders)."""
        return self._reader.name

    @property
    def note(self) -> str | None:
        """What a user should know about the frames, such as damage, on one line; None where there is nothing."""
        return "; ".join([*self._info.notes, *self._reader.notes]) or None

    @property
    def decode_passes(self) -> int:
        """How often a decode of the file was started for its pixels; the check of decord is not counted."""
        return sum(count.passes for count in self._counts)

    @property
    def frames_decoded(self) -> int:
        """Frames that were taken from the decoder; those it skipped on the way are not counted."""
        return sum(count.frames for count in self._counts)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames of the given indices, in their order; repeats are allowed: (n, height, width, 3) uint8."""
        batch = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for places, frame in self._visit(indices):
            batch[places] = frame
        return batch

    def resized(self, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Like `frames`, resized to `size` (height, width) by Pillow's bilinear filter, which averages when it shrinks.

        Each frame is resized as soon as it is decoded: memory holds one frame of full size besides the result.
        """
        height, width = size
        batch = np.empty((len(indices), height, width, 3), np.uint8)
        for places, frame in self._visit(indices):
            batch[places] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        return batch

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The frames start..stop-1 one after the other, each (height, width, 3) uint8, in flat memory."""
        stop = self.num_frames if stop is None else stop
        self._check([start, stop - 1] if start < stop else [])
        for index in range(start, stop):
            yield self._frame(index).copy()  # the cache keeps its own

    def close(self) -> None:
        """Frees the decoder and the cache. Closing twice is fine; reading afterwards raises ValueError."""
        self._closed = True
        self._reader.close()
        self._cache.clear()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Video({self.source!r}, {self.num_frames} frames, {self.width}x{self.height}, {self.reader})"

    def _visit(self, indices: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Each wanted frame once, in ascending order, with its places in `indices`."""
        self._check(indices)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(int(index), []).append(place)
        for index in sorted(places):
            yield places[index], self._frame(index)

    def _check(self, indices: Iterable[int]) -> None:
        if self._closed:
            raise ValueError(f"{self.source} is closed")
        for index in indices:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"frame {index} of {self.source}, which has frames 0 to {self.num_frames - 1}")

    def _frame(self, index: int) -> np.ndarray:
        number = self.frame_range[index]
        kept = self._cache.get(number)
        if kept is not None:
            return kept
        try:
            frame = self._reader.read(number)
        except ReaderError as error:
            frame = self._read_with_pyav(number, error)
        self._cache.offer(number, frame)
        return frame

    def _read_with_pyav(self, index: int, error: ReaderError) -> np.ndarray:
        """The reader failed in the middle: one that decodes the whole file takes over, or says where the stream breaks."""
        assert self._packets is not None
        before = self._reader.name
        self._reader.close()
        self._reader = PyavReader(self._path, self._info, self._packets, self._config, self._cache)
        self.reader_reason = f"{before} fails: {error}"
        self._counts.append(self._reader.count)
        if self._reader.num_frames != self.total_frames:
            raise InputError(
                f"{self.source} has {self.total_frames} packets but {self._reader.num_frames} frames; re-encode it"
            ) from error
        kept = self._cache.get(index)
        return self._reader.read(index) if kept is None else kept
