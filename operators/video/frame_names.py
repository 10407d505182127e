"""The order of a folder's frames, from their names alone: one number that varies from name to name tells the place."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from vrshq.operators.batch import InputError

# suffixes of the images that are read as frames, in lower case
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"})
# suffixes of images that are not read: such a file among frames is a frame that would be missing
_OTHER_IMAGES = re.compile(
    r"\.(gif|apng|avifs?|hei[cf]|hif|jp2|j2k|jxl|jxr|p[pgnb]m|tga|exr|hdr|dpx|dng|cr[23]|nef|arw|raf|orf|psd|svg|ico|pcx|sgi)"
)
# what is added to the name of a file that is not there as a whole yet
_UNFINISHED = frozenset({"", ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart"})
# "1.5" and "1,5" are one number with a fraction; longer chains, such as the date 2024.01.05, are numbers side by side
_CHAIN = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


@dataclass(frozen=True)
class _Name:
    """A name in parts: `texts` around `numbers` (one more than those), and whether each number has a minus sign."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    negative: tuple[bool, ...]

    def value(self, place: int) -> Decimal:
        return Decimal(self.numbers[place].replace(",", "."))


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case with its dot; empty without one."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image_name(name: str) -> bool:
    """Whether a name in a folder's listing is that of an image file in the folder itself, and not a hidden one."""
    return "/" not in name and not name.startswith(".") and suffix_of(name) in IMAGE_SUFFIXES


def is_other_image_name(name: str) -> bool:
    """Whether a name is that of an image of a kind that is not read."""
    return _OTHER_IMAGES.fullmatch(suffix_of(name)) is not None


def may_be_image(name: str) -> bool:
    """Whether a name in a folder's listing may be that of an image: also one of another kind, unfinished or without a suffix.

    Whoever copies a folder copies these files, so that it is refused like the original.
    """
    unfinished = suffix_of(name) in _UNFINISHED or name.endswith("~")
    return is_image_name(name) or (
        "/" not in name and not name.startswith(".") and (is_other_image_name(name) or unfinished)
    )


def shown(name: str) -> str:
    """A file's name for a message: control characters and bytes that are no text are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name)


def in_order(folder: str, names: Iterable[str]) -> list[str]:
    """The names of a folder's image files in the order of their numbers.

    Numbers may have leading zeros, gaps and fractions (`12.5.jpg`). Dates and other numbers in the names are no matter as
    long as they are the same in all names.

    Args:
        folder: for messages.
        names: names of all image files of the folder, without hidden ones.

    Raises:
        InputError: no name has a number, a name has no place among the others, two names have one number, or more than one
            number varies. The message names the folder and the first such file.
    """
    parsed = sorted((_parse(name) for name in names), key=lambda one: one.name)
    if not any(one.numbers for one in parsed):
        raise InputError(f"{folder} has no numbered frames; expected files like 00000.jpg or frame_1.png")
    _check_one_kind(folder, parsed)
    varying = [place for place in range(len(parsed[0].numbers)) if len({one.value(place) for one in parsed}) > 1]
    if len(varying) > 1:
        raise InputError(
            f"{folder} has frames named like {_pattern(parsed[0], varying)}, where {len(varying)} numbers vary; expected one "
            "running number; rename them to 00000.jpg, 00001.jpg, ..."
        )
    place = varying[0] if varying else len(parsed[0].numbers) - 1
    for one in parsed:
        if one.negative[place]:
            raise InputError(f"{folder} has a frame with a negative number, {shown(one.name)}; expected 0 or more")
    _check_fractions(folder, parsed, place)
    ordered = sorted(parsed, key=lambda one: one.value(place))
    for one, other in itertools.pairwise(ordered):
        if one.value(place) == other.value(place):
            raise InputError(
                f"{folder} has two files for frame {_plain(one.value(place))}, {shown(one.name)} and {shown(other.name)}; "
                "remove one"
            )
    return [one.name for one in ordered]


def _parse(name: str) -> _Name:
    stem = name.rpartition(".")[0] if suffix_of(name) else name
    texts: list[str] = []
    numbers: list[str] = []
    negative: list[bool] = []
    end = 0
    for chain in _CHAIN.finditer(stem):
        parts = re.split("([.,])", chain[0])
        before = stem[: chain.start()]
        texts += [stem[end : chain.start()], *(parts[1::2] if len(parts) > 3 else [])]
        found = parts[::2] if len(parts) > 3 else [chain[0]]
        numbers += found
        # a hyphen after a letter or a digit separates; after anything else it is a sign
        signed = re.search(r"(?:^|[^\w\-−]|_|[-−])[-−]$", before) is not None
        negative += [signed] + [False] * (len(found) - 1)
        end = chain.end()
    return _Name(name, (*texts, stem[end:]), tuple(numbers), tuple(negative))


def _check_one_kind(folder: str, names: Sequence[_Name]) -> None:
    """Raises InputError that names the first file whose name has other words than most names have."""
    counts = Counter(one.texts for one in names if one.numbers)
    most = max(counts.values())
    main = next(one for one in names if counts[one.texts] == most and one.numbers)
    for one in names:
        if one.texts == main.texts:
            continue
        name, like = shown(one.name), shown(main.name)
        if not one.numbers:
            raise InputError(
                f"{folder} holds an image without a number, {name}, beside frames such as {like}; expected a number in each "
                "name; move or rename it"
            )
        if any(one.negative):
            raise InputError(f"{folder} has a frame with a negative number, {name}; expected 0 or more")
        raise InputError(
            f"{folder} holds frames of two kinds, {like} and {name}; expected one name with a running number"
        )


def _check_fractions(folder: str, names: Sequence[_Name], place: int) -> None:
    """Raises InputError where the part after a dot may be a fraction or a number of its own, which order differently.

    Fractions are written with one number of digits, or without zeros at their end; "1.9" before "1.10" is neither.
    """
    fractions = [(one, re.split("[.,]", one.numbers[place])[1:]) for one in names]
    digits = [(one, parts[0]) for one, parts in fractions if parts]
    if len({len(part) for _, part in digits}) > 1:
        for one, part in digits:
            if part.endswith("0") and part != "0":
                raise InputError(
                    f"{folder} has frames whose order is unclear, such as {shown(one.name)}: the number after the dot may be "
                    "a fraction or a counter; write it with the same number of digits in all names"
                )


def _pattern(name: _Name, varying: Sequence[int]) -> str:
    """The name with a star for each number that varies."""
    numbers = ["*" if place in varying else number for place, number in enumerate(name.numbers)]
    stem = "".join(text + number for text, number in zip(name.texts, [*numbers, ""], strict=True))
    return shown(stem + suffix_of(name.name))


def _plain(value: Decimal) -> str:
    return format(value.normalize(), "f")
