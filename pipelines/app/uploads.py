"""Videos that the page sends: taken up to a limit of bytes, and kept only if their header is that of a video."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from vrshq.errors import UserError
from vrshq.operators.batch import InputError
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import probe
from vrshq.pipelines.export.names import part_of
from vrshq.pipelines.label.settings import Limits

_LONGEST_NAME = 120  # characters


class UploadRefused(UserError):  # noqa: N818 - reads as the sentence that it is
    """An upload that is too large or no video."""


class Uploads:
    """A local folder of uploaded videos, each in a folder of its own with a random name.

    Args:
        folder: where they lie.
        most: bytes of one upload at most.
        limits: of a video.
    """

    def __init__(self, folder: Path, most: int, limits: Limits) -> None:
        self.folder, self.most, self._limits = folder, most, limits

    async def take(self, name: str, announced: int | None, content: AsyncIterator[bytes]) -> str:
        """Writes one upload and returns its path.

        Args:
            name: the file's name on the sender's machine. Its last part is kept, as a harmless name.
            announced: the size that the sender states, in bytes.
            content: the bytes.

        Raises:
            UploadRefused: it is larger than allowed, or its header is not that of a video within the limits.
        """
        if announced is not None and announced > self.most:
            raise self._too_large()
        place = self.folder / secrets.token_hex(8)
        place.mkdir(parents=True)
        target = place / (part_of(name.replace("\\", "/").rpartition("/")[2][-_LONGEST_NAME:]) or "video")
        try:
            taken = 0
            with target.open("xb") as file:
                async for chunk in content:
                    taken += len(chunk)
                    if taken > self.most:
                        raise self._too_large()
                    file.write(chunk)
            try:
                await asyncio.to_thread(probe, str(target), DecodeConfig(**self._limits.sizes()))
            except InputError as error:
                raise UploadRefused(str(error).replace(str(target), name[-_LONGEST_NAME:])) from error
        except BaseException:  # a sender that goes away, too
            shutil.rmtree(place, ignore_errors=True)
            raise
        return str(target)

    def _too_large(self) -> UploadRefused:
        return UploadRefused(
            f"the upload is larger than {self.most:,} bytes; `vrshq app --max-upload` raises the limit"
        )
