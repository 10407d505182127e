"""A folder of frames: which files are frames, in which order, and of which size, found from names and headers.

Either every image file of the folder has a place among the frames, or the folder is refused: a frame that was left out
would shift all later ones.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image

from vrshq.operators.batch import InputError
from vrshq.operators.video import orientation
from vrshq.operators.video.files import DecodeConfig, VideoInfo, check_limit
from vrshq.operators.video.frame_names import in_order, is_image_name, is_other_image_name, shown
from vrshq.operators.video.size_change import size_note

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # Pillow has other readers, and some of them start programs
_READ = "JPEG, PNG, WebP, BMP or TIFF"
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


def inspect_folder(path: Path, config: DecodeConfig) -> tuple[VideoInfo, list[Path]]:
    """Finds the frames of a folder in the order of their numbers. Costs one header per file; no pixel is decoded.

    Files that are no images, hidden files and folders are ignored.

    Raises:
        InputError: one line that names the file that has no place (`frame_names.in_order`, a link to nothing, an image of a
            kind that is not read), cannot be opened, or has another size than the first frame where that is refused.
    """
    files = [path / name for name in in_order(str(path), _image_names(path, config))]
    codecs = set()
    size = (0, 0)
    before = size
    changes: list[tuple[int, int, int]] = []
    for number, file in enumerate(files):
        with open_image(file, number, len(files)) as image:
            found = orientation.of_image(image).size(image.height, image.width)
            codecs.add(str(image.format).lower())
        check_limit(str(file), found[0] * found[1], config.max_pixels, "pixels", "limits.max_pixels")
        size = size if number else found
        if found != size and config.size_change == "refuse":
            raise InputError(
                f"{file} is {found[1]}x{found[0]}, but {files[0].name} is {size[1]}x{size[0]}; expected one size; resize it, "
                "or set decode.size_change to scale"
            )
        if number and found != before:
            changes.append((number, *found))
        before = found
    notes = (size_note(changes, size),) if changes else ()
    total = sum(file.stat().st_size for file in files)
    info = VideoInfo(str(path), len(files), *size, ",".join(sorted(codecs)), "images", None, total, notes=notes)
    return info, files


def _image_names(path: Path, config: DecodeConfig) -> list[str]:
    """The names of the folder's image files; InputError for the first one that cannot be a frame."""
    names = []
    total = 0
    for name in sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith(".")):
        known, other = is_image_name(name), is_other_image_name(name)
        try:
            status = (path / name).stat()
        except OSError as error:
            if not known and not other:
                continue
            raise InputError(
                f"{path}/{shown(name)} leads to no file ({error.strerror}); expected an image in each place; mend the link "
                "or remove it"
            ) from error
        if stat.S_ISDIR(status.st_mode) or not (known or other or _is_image(path / name, status)):
            continue
        if not known:
            raise InputError(
                f"{path}/{shown(name)} is an image of a kind that is not read, or has a name that does not say its kind; "
                f"expected {_READ}; convert, rename or move it"
            )
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}/{shown(name)} is not a regular file; expected an image in each place")
        names.append(name)
        total += status.st_size
        check_limit(str(path), len(names), config.max_frames, "frames", "limits.max_frames")
        check_limit(str(path), total, config.max_bytes, "bytes", "limits.max_bytes")
    return names


def _is_image(file: Path, status: os.stat_result) -> bool:
    """Whether a file holds an image although its name does not say so, such as one that was not downloaded to its end."""
    if not stat.S_ISREG(status.st_mode):
        return False
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
    except OSError:
        return False
    return head.startswith(_IMAGE_SIGNATURES) or head[:4] + head[8:] == b"RIFFWEBP"


def open_image(file: Path, index: int, frames: int) -> Image.Image:
    """Opens the header of frame `index` of a folder of `frames` frames.

    Raises:
        InputError: the file is none of `IMAGE_FORMATS`, or has more than 8 bits per channel.
    """
    name = f"{file.parent}/{shown(file.name)}"
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow's readers raise many types on broken headers
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name} cannot be read as an image, frame {index} of {frames} ({why}); expected {_READ}"
        ) from error
    if image.mode[0] in "IF":
        image.close()
        raise InputError(f"{name} has more than 8 bits per channel ({image.mode}); expected 8 bits, in {_READ}")
    return image
