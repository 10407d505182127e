"""The orientation of a stored picture: from the display matrix of a video frame, or from the EXIF data of an image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from PIL import Image

_ANGLE = np.tan(np.radians(1))  # a matrix within one degree of an axis counts as parallel to it, as in ffmpeg
_EXIF_TAG = 0x0112


@dataclass(frozen=True)
class Orientation:
    """The way from the stored picture to the displayed one: one of the eight combinations of a turn and a mirror.

    The picture is transposed first and mirrored afterwards.

    Attributes:
        transposed: rows and columns change places.
        mirror_x: left and right change places.
        mirror_y: top and bottom change places.
    """

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether the displayed picture is a mirror image of the stored one, turned or not."""
        return self.transposed ^ self.mirror_x ^ self.mirror_y

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise (0, 90, 180, 270) by which the picture is turned.

        A mirror image is turned first; then its left and right change places.
        """
        if self.transposed:
            return 90 if self.mirror_y else 270
        return 180 if self.mirror_y else 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The displayed picture of a stored one, as a contiguous array.

        Args:
            picture: (H, W, C).

        Returns:
            (H, W, C), or (W, H, C) where it is transposed.
        """
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return np.ascontiguousarray(picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the displayed picture."""
        return (width, height) if self.transposed else (height, width)


UPRIGHT = Orientation()
_EXIF = {
    2: Orientation(mirror_x=True),
    3: Orientation(mirror_x=True, mirror_y=True),
    4: Orientation(mirror_y=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, mirror_x=True),
    7: Orientation(transposed=True, mirror_x=True, mirror_y=True),
    8: Orientation(transposed=True, mirror_y=True),
}


def of_frame(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame's display matrix asks for.

    Turns by other angles than quarters are left out, as players leave them out; so is a matrix that has no inverse.
    """
    kept: Any = frame.side_data  # PyAV's types do not have its keys
    data = kept.get(Type.DISPLAYMATRIX)
    return UPRIGHT if data is None else of_matrix(np.frombuffer(bytes(data), np.int32))


def of_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation of a display matrix.

    Args:
        matrix: (9,) int32, as in ffmpeg and in the track header of mp4: a, b, u, c, d, v, x, y, w. The stored point (p, q) is
            displayed at (a*p + c*q + x, b*p + d*q + y).
    """
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if a and d and max(abs(b / a), abs(c / d)) < _ANGLE:
        return Orientation(mirror_x=a < 0, mirror_y=d < 0)
    if b and c and max(abs(a / b), abs(d / c)) < _ANGLE:
        return Orientation(transposed=True, mirror_x=c < 0, mirror_y=b < 0)
    return UPRIGHT


def of_image(image: Image.Image) -> Orientation:
    """The orientation that an opened image's EXIF data ask for; only headers are read.

    Data that mean nothing (another number than 1 to 8, a text, a broken block) are ignored, as viewers ignore them. TIFF is
    always upright here, because Pillow turns it while it reads the pixels.
    """
    if image.format == "TIFF":
        return UPRIGHT
    if image.format == "PNG" and "exif" not in image.info:
        late = _exif_after_pixels(image)
        if late is not None:
            image.info["exif"] = late
    try:
        value: Any = Image.Image.getexif(image).get(_EXIF_TAG)  # PngImageFile's own method would decode the picture
        return _EXIF.get(value, UPRIGHT)
    except Exception:  # noqa: BLE001 - EXIF is untrusted, and Pillow's parser has no error of its own
        return UPRIGHT


def _exif_after_pixels(image: Image.Image) -> bytes | None:
    """The EXIF chunk of a PNG that stands after the pixels, found from the chunks' headers; None without one."""
    opened: Any = image.fp  # type: ignore[attr-defined]
    file = opened.fileno()
    place = 8  # after the signature
    while len(head := os.pread(file, 8, place)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return os.pread(file, min(size, 2**16), place + 8)
        place += size + 12
    return None
