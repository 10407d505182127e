"""The reader of folders of numbered JPEG or PNG frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageOps

from vrshq.operators.batch import InputError
from vrshq.operators.video.files import VideoInfo, open_image
from vrshq.operators.video.reader import DecodeCount


class ImageReader:
    """A folder of JPEG or PNG frames. Orientation in EXIF is applied; transparency is dropped."""

    name = "images"

    def __init__(self, files: list[Path], info: VideoInfo) -> None:
        self._files, self._info = files, info
        self.num_frames = len(files)
        self.count = DecodeCount()

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in presentation order: (H, W, 3) uint8 RGB."""
        self.count.add(index, index + 1)
        file = self._files[index]
        try:
            with open_image(file) as image:
                if image.height * image.width != self._info.height * self._info.width:
                    raise InputError(f"{file} changed its size since the folder was opened")
                frame = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, InputError):
                raise
            words = f"frame {index} of {self.num_frames}, cannot be decoded ({error})"
            raise InputError(f"{file}, {words}; expected a sound JPEG or PNG; copy it again") from error
        return frame

    def close(self) -> None:
        """Releases the decoder."""
