"""Animated images (GIF, APNG, WebP) as videos: frames in the order of the file, transparency on white, read by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from vrshq.operators.batch import InputError
from vrshq.operators.video.damage import Damage
from vrshq.operators.video.files import DecodeConfig, VideoInfo, check_limit
from vrshq.operators.video.reader import DecodeCount

# the first bytes of a file -> Pillow's name of the kind
_SIGNATURES = {
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WEBP",  # and four bytes of length before WEBP
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",  # and the size of the file
}


@dataclass(frozen=True)
class _Layout:
    """What the blocks of a file say.

    `frames` are there, `lost_end` are missing at the end (None: nobody knows how many), and the last whole block ends at `end`.
    """

    frames: int
    height: int
    width: int
    lost_end: int | None
    end: int = 0


def image_kind(path: Path) -> str | None:
    """Pillow's name of the kind of an image file, by its first bytes; None for any other file."""
    with path.open("rb") as file:
        head = file.read(12)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            sure = {"WEBP": head[8:] == b"WEBP", "BMP": int.from_bytes(head[2:6], "little") == path.stat().st_size}
            return kind if sure.get(kind, True) else None
    return None


def inspect_animation(path: Path, kind: str, config: DecodeConfig) -> VideoInfo:
    """What an animated image holds, from the headers of its blocks; no pixel is decoded.

    Raises:
        InputError: the file holds a single picture (a GIF of one frame is a video of one frame), states no frames, is above a
            limit, or is cut short where that is refused.
    """
    with path.open("rb") as file:
        layout = _LAYOUTS[kind](file) if kind in _LAYOUTS else None
    if layout is None:
        raise InputError(
            f"{path} is a picture ({kind}), not a video; expected a video file, an animated image or a folder of frames; "
            "to label pictures, put them into a folder"
        )
    check_limit(str(path), layout.frames, config.max_frames, "frames", "limits.max_frames")
    check_limit(str(path), layout.height * layout.width, config.max_pixels, "pixels per frame", "limits.max_pixels")
    if not layout.frames or not layout.height * layout.width:
        raise InputError(f"{path} has no frames; expected at least one")
    if layout.lost_end != 0 and config.damaged == "refuse":
        raise InputError(
            f"{path} is cut short after about {layout.frames} frames; expected the whole file; copy it again, or read what is "
            "there with decode.damaged=keep"
        )
    codec = "apng" if kind == "PNG" else kind.lower()
    size = path.stat().st_size
    lost = layout.lost_end
    return VideoInfo(str(path), layout.frames, layout.height, layout.width, codec, codec, None, size, lost_end=lost)


class AnimationReader:
    """An animated image. Frames build on each other, so that going backwards begins again at the first one."""

    name = "pillow"

    def __init__(self, path: Path, kind: str, info: VideoInfo, config: DecodeConfig) -> None:
        self._path, self._kind, self._info = path, kind, info
        self.num_frames = info.num_frames
        self.count = DecodeCount()
        self.notes: list[str] = []
        self._next = 0  # the frame that Pillow stands on
        self._image = self._open()
        # an APNG may hold a picture for viewers that know no animations, which is not a frame
        self._skipped = int(bool(self._image.info.get("default_image")))
        if config.damaged == "keep":
            self._keep_what_decodes()

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in the order of the file: (H, W, 3) uint8 RGB."""
        self.count.add(index, index + 1)
        if index < self._next:  # Pillow's own way back fails on some files
            self._image.close()
            self._image = self._open()
        self._next = index
        try:
            self._image.seek(index + self._skipped)
            frame = self._image.convert("RGBA")
        except Exception as error:  # Pillow's decoders raise many types on damaged data
            raise InputError(
                f"{self._path} breaks at frame {index} of {self.num_frames} ({_words(error)}); expected a sound file; copy it "
                "again, or read what is left with decode.damaged=keep"
            ) from error
        if frame.size != (self._info.width, self._info.height):
            raise InputError(
                f"{self._path} changes its frame size to {frame.width}x{frame.height} in the middle, at frame {index}; "
                f"expected {self._info.width}x{self._info.height} throughout"
            )
        white = Image.new("RGBA", frame.size, "white")
        return np.array(Image.alpha_composite(white, frame).convert("RGB"))

    def close(self) -> None:
        """Releases the decoder."""
        self._image.close()

    def _open(self) -> Any:
        try:
            # libwebp takes no file that lacks its end
            cut_webp = self._kind == "WEBP" and self._info.lost_end != 0
            return Image.open(_whole_webp(self._path) if cut_webp else self._path, formats=[self._kind])
        except Exception as error:  # Pillow's readers raise many types on broken headers
            raise InputError(
                f"{self._path} cannot be read ({_words(error)}); expected a sound {self._kind} animation; copy it again"
            ) from error

    def _keep_what_decodes(self) -> None:
        there = self.num_frames
        for index in range(there):
            try:
                self.read(index)
            except InputError:
                self.num_frames = index
                break
        if not self.num_frames:
            raise InputError(f"{self._path} has no frame that can be decoded; expected at least one")
        self.count = DecodeCount()
        lost = None if self._info.lost_end is None else self._info.lost_end + there - self.num_frames
        damage = Damage(lost_end=lost)
        self.notes = [damage.note(self.num_frames)] if damage else []


def _gif(file: IO[bytes]) -> _Layout:
    head = file.read(13)
    width, height = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[10:11] and head[10] & 0x80:
        file.seek(3 << (head[10] & 7) + 1, 1)
    frames = 0
    while mark := file.read(1):
        if mark == b";":
            return _Layout(frames, height, width, 0)
        if mark == b"!":
            file.seek(1, 1)
        elif mark == b",":
            block = file.read(9)
            if len(block) < 9:
                break
            frames += 1
            file.seek((3 << (block[8] & 7) + 1 if block[8] & 0x80 else 0) + 1, 1)
        else:
            break
        while size := file.read(1):  # the data in pieces, up to an empty one
            if size == b"\0":
                break
            file.seek(size[0], 1)
    return _Layout(frames, height, width, None)


def _png(file: IO[bytes]) -> _Layout | None:
    """The layout of an APNG; None for a PNG that is no animation."""
    file.seek(16)
    width, height = int.from_bytes(file.read(4), "big"), int.from_bytes(file.read(4), "big")
    file.seek(8)
    announced = frames = 0
    whole = False
    while len(head := file.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        data = file.read(4) if kind == b"acTL" else b""
        if kind == b"acTL":
            announced = int.from_bytes(data, "big")
        elif kind == b"IDAT" and not announced:
            return None
        frames += kind == b"fcTL"
        whole = kind == b"IEND"
        file.seek(size + 4 - len(data), 1)
    there = min(frames, announced)
    lost = announced - there
    return _Layout(there, height, width, lost if whole or lost else None) if announced else None


def _webp(file: IO[bytes]) -> _Layout | None:
    """The layout of an animated WebP; None for a picture."""
    head = file.read(30)
    if head[12:16] != b"VP8X" or len(head) < 30 or not head[20] & 2:
        return None
    width, height = (int.from_bytes(head[place : place + 3], "little") + 1 for place in (24, 27))
    end = 8 + int.from_bytes(head[4:8], "little")
    frames, place = 0, 30
    size_of_file = file.seek(0, 2)
    while place + 8 <= min(end, size_of_file):
        file.seek(place)
        chunk = file.read(8)
        size = int.from_bytes(chunk[4:], "little")
        if place + 8 + size > size_of_file:
            break
        frames += chunk[:4] == b"ANMF"
        place += 8 + size + size % 2
    return _Layout(frames, height, width, None if end > size_of_file else 0, min(place, size_of_file))


def _whole_webp(path: Path) -> IO[bytes]:
    """The whole chunks of a WebP that was cut short, as a file of their size."""
    with path.open("rb") as file:
        layout = _webp(file)
        assert layout is not None
        file.seek(0)
        data = bytearray(file.read(layout.end))
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    return io.BytesIO(data)


_LAYOUTS = {"GIF": _gif, "PNG": _png, "WEBP": _webp}


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
