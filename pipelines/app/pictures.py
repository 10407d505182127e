"""Frames of videos as JPEG pictures, from a few videos that are kept open."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from PIL import Image

from vrshq.operators.batch import InputError
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.pixel_aspect import displayed_size
from vrshq.operators.video.video import Video, open_video
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.work.videos import local_video

SMALLEST, LARGEST = 64, 1920  # the longer side of a picture, pixels
_OPEN_VIDEOS = 6
_OPEN_BYTES = 64 << 20  # decoded frames of an open video
_KEPT_BYTES = 64 << 20  # pictures
_QUALITY = 85
_LOCKS = 64


@dataclass
class _Open:
    video: Video
    held: contextlib.ExitStack  # the video and its file, which may be a copy of a remote one
    users: int = 0


class Pictures:
    """Frames by number, from the videos of a run. Safe for several threads.

    Cost: opening a video; then a decode up to the frame, unless it is among those that are kept. Up to `_OPEN_VIDEOS` videos
    stay open, each with at most `_OPEN_BYTES` of frames.

    Args:
        config: how the run read its videos.
        limits: of the videos, and whom their uris may call.
        scratch: local folder for copies of remote videos.
    """

    def __init__(self, config: DecodeConfig, limits: Limits, scratch: str) -> None:
        self._config = replace(
            config, frame_cache_bytes=min(config.frame_cache_bytes, _OPEN_BYTES), decord_bytes=_OPEN_BYTES
        )
        self._limits, self._scratch = limits, scratch
        self._videos: OrderedDict[str, _Open] = OrderedDict()
        self._pictures: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # a video serves one thread at a time; videos that share a lock wait for each other
        self._reading = [threading.Lock() for _ in range(_LOCKS)]

    def jpeg(self, uri: str, frame: int, size: int) -> bytes:
        """A frame as people see it, its longer side `size` pixels at most, as JPEG.

        Raises:
            UserError: the video cannot be read, or has no such frame.
        """
        size = min(max(size, SMALLEST), LARGEST)
        key = (uri, frame, size)
        with self._lock:
            kept = self._pictures.get(key)
            if kept is not None:
                self._pictures.move_to_end(key)
                return kept
        with self._reading[hash(uri) % _LOCKS]:
            opened = self._opened(uri)
            try:
                picture = _picture(opened.video, frame, size)
            except IndexError as error:
                raise InputError(str(error)) from error
            finally:
                opened.users -= 1
        with self._lock:
            if key not in self._pictures:
                self._pictures[key] = picture
                self._size += len(picture)
            while self._size > _KEPT_BYTES:
                self._size -= len(self._pictures.popitem(last=False)[1])
        return picture

    def close(self) -> None:
        """Closes all videos and removes their copies."""
        with self._lock:
            held, self._videos = list(self._videos.values()), OrderedDict()
        for one in held:
            one.held.close()

    def _opened(self, uri: str) -> _Open:
        """The open video, with one user more. The caller holds the lock of the uri."""
        with self._lock:
            found = self._videos.get(uri)
            if found is not None:
                self._videos.move_to_end(uri)
                found.users += 1
                return found
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(local_video(uri, self._scratch, self._limits))
            video = stack.enter_context(open_video(path, self._config))
            opened = _Open(video, stack.pop_all(), users=1)
        with self._lock:
            self._videos[uri] = opened
            idle = [name for name, one in self._videos.items() if not one.users]
            old = [self._videos.pop(name) for name in idle[: max(0, len(self._videos) - _OPEN_VIDEOS)]]
        for one in old:
            one.held.close()
        return opened


def _picture(video: Video, frame: int, size: int) -> bytes:
    height, width = displayed_size(video.height, video.width, video.pixel_aspect)
    scale = min(1.0, size / max(height, width))
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    sink = io.BytesIO()
    Image.fromarray(video.resized([frame], shape)[0]).save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()
