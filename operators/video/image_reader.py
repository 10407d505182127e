"""The reader of folders of numbered frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vrshq.operators.batch import InputError
from vrshq.operators.video import orientation
from vrshq.operators.video.files import VideoInfo
from vrshq.operators.video.folder import open_image
from vrshq.operators.video.reader import DecodeCount
from vrshq.operators.video.size_change import scaled


class ImageReader:
    """A folder of images, one for each frame. The orientation in EXIF is applied; transparency is dropped."""

    name = "images"

    def __init__(self, files: list[Path], info: VideoInfo) -> None:
        self._files, self._info = files, info
        self.num_frames = len(files)
        self.count = DecodeCount()
        self.notes: list[str] = []

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in presentation order: (H, W, 3) uint8 RGB."""
        self.count.add(index, index + 1)
        file = self._files[index]
        with open_image(file, index, self.num_frames) as image:
            turned = orientation.of_image(image)
            size = (self._info.height, self._info.width)
            differs = turned.size(image.height, image.width) != size
            if differs and not self._info.notes:
                raise InputError(f"{file} changed its size since the folder was opened")
            try:
                picture = turned.apply(np.asarray(image.convert("RGB")))
            except Exception as error:  # Pillow's decoders raise many types on damaged data
                words = f"frame {index} of {self.num_frames}, cannot be decoded ({' '.join(str(error).split())})"
                raise InputError(f"{file}, {words}; expected a sound image; copy it again") from error
            return scaled(picture, size) if differs else picture

    def close(self) -> None:
        """Releases the decoder."""
