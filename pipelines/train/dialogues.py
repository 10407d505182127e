"""Readers of the training mixture's dialogues: LLaVA-Instruct and the three lists of Chat-UniVi-Instruct.

The layouts are those of VRS-HQ's public loader; all paths are inside the given root. That loader draws one of the three lists
with equal weights, asks only the last question of an item, and skips items without a picture or a video. These readers differ
from it in four points. The list of an item, not its file name, decides the kind of its files. A question keeps its own answer.
A question that does not mention the picture is asked with the picture, too. Frames are not numbered.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.fetch import GIVEN_BY_USER, fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.models.config import CLIP_MEAN
from vrshq.operators.training.clip import Clip, choose_frames
from vrshq.operators.video.video import open_video
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.train.images import read_image, read_json

logger = logging.getLogger(__name__)

MIMIC = "Fine-tuning/MIMIC_imageonly"
MIMIC_PARTS = ("CGD", "LA", "SD")
VIDEO = "Fine-tuning/VIDEO"
SCIENCE = "ScienceQA_tuning"
# Largest number of Chat-UniVi items drawn until one is readable, as in its loader: public copies lack files.
TRIES = 10
PADDING = tuple(int(255 * mean) for mean in CLIP_MEAN)
LONGEST = 2048  # pixels; without a limit, padding turns a picture one pixel high into gigabytes

Place = Callable[[str], str | None]
Read = Callable[[Folder, Sequence[str], np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """Which items and turns of a listing are used.

    Attributes:
        last: only an item's last question and answer.
        most: largest number of pictures of an item. Items with more are left out, because their prompts leave no room for
            the answer.
        tries: largest number of items drawn until one is readable. Unreadable items are logged; the error of the last try
            is raised.
    """

    last: bool = True
    most: int = 1
    tries: int = TRIES


DEFAULT = Choice()


class Dialogues:
    """Items of pictures or videos, each with a conversation about them.

    Args:
        source: name of the data set.
        folder: root of the data set.
        listing: JSON, a list of {`key`: a name or several, "conversations": [{"from", "value"}]}; other items are left out.
        place: maps a name of an item to a path inside the folder; None: the item is left out.
        read: reads the frames (n, H, W, 3) uint8 RGB of an item's paths.
        key: "image" or "video".
        choice: which items and turns are used.
    """

    def __init__(
        self,
        source: str,
        folder: Folder,
        listing: str,
        place: Place,
        read: Read,
        *,
        key: str = "image",
        choice: Choice = DEFAULT,
    ) -> None:
        self.source, self.folder, self.read, self.key, self.tries = source, folder, read, key, choice.tries
        self.items: list[tuple[list[str], tuple[tuple[str, str], ...]]] = []
        for item in read_json(folder, listing):
            named = item.get(key) or []
            places = [place(str(name)) for name in (named if isinstance(named, list) else [named])]
            names = [name for name in places if name is not None]
            turns = pairs(item.get("conversations") or [])
            if turns and 0 < len(places) <= choice.most and len(names) == len(places):
                self.items.append((names, tuple(turns[-1:] if choice.last else turns)))
        if not self.items:
            raise DatasetError(f"{folder.uri_of(listing)}: no conversations about a picture or a video")

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random item.

        Raises:
            ValueError: the item of the last try is no picture or video (`DatasetError` included).
            StorageError: the file of the last try does not exist, or the storage failed.
        """
        for left in reversed(range(self.tries)):
            names, turns = self.items[random.integers(len(self.items))]
            try:
                frames = self.read(self.folder, names, random)
            except (
                ValueError,
                StorageNotFoundError,
            ) as error:  # not a picture or a video, a name that leaves the folder
                if not left:
                    raise
                logger.warning("%s: passed over: %s", self.source, error)
            else:
                return Clip(self.source, frames, is_video=self.key == "video", turns=turns)
        raise AssertionError("tries: expected at least 1")


def pairs(conversation: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """(question, answer) of each "human" turn that a "gpt" turn follows."""
    found = []
    for asked, said in itertools.pairwise(conversation):
        if asked.get("from") == "human" and said.get("from") == "gpt":
            found.append((str(asked["value"]), str(said["value"])))
    return found


def whole_picture(folder: Folder, names: Sequence[str], _: np.random.Generator) -> np.ndarray:
    """The first picture, unpadded, as one frame (1, H, W, 3) uint8."""
    return read_image(folder, names[0])[None]


def padded_pictures(folder: Folder, names: Sequence[str], _: np.random.Generator) -> np.ndarray:
    """All pictures, padded to squares: (n, S, S, 3) uint8."""
    return squares([read_image(folder, name) for name in names])


def sampled_video(
    folder: Folder, names: Sequence[str], random: np.random.Generator, frames: tuple[int, int]
) -> np.ndarray:
    """A random frame of each of `frames` (least, most) segments of a video file; all of a shorter one."""
    scratch = os.environ.get("VRSHQ_SCRATCH", tempfile.gettempdir())
    with fetch_to_local(folder.uri_of(names[0]), scratch, wanted=GIVEN_BY_USER) as path, open_video(path) as video:
        return video.frames(choose_frames(random, video.num_frames, *frames).tolist())


def squares(images: Sequence[np.ndarray]) -> np.ndarray:
    """(n, S, S, 3) uint8: pictures (H, W, 3) centred in squares of CLIP's mean colour; S is the longest side of all.

    Pictures with a side longer than `LONGEST` are shrunk first.
    """
    padded = []
    for pixels in images:
        image = Image.fromarray(pixels)
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        side = max(image.size)
        square = Image.new("RGB", (side, side), PADDING)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        padded.append(square)
    side = max(square.width for square in padded)
    return np.stack([np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)) for square in padded])


def llava_instruct(folder: Folder) -> Dialogues:
    """Whole conversations about pictures of COCO; the pictures are not padded."""
    listing = "llava_dataset/llava_instruct_150k.json"
    return Dialogues(
        "llava-instruct", folder, listing, "coco/train2017/{}".format, whole_picture, choice=Choice(last=False, tries=1)
    )


def mimic(folder: Folder, most: int) -> Dialogues:
    """MIMIC-IT's pictures, often two to compare; the first of CGD, LA and SD in a file's name names its folder."""

    def place(name: str) -> str | None:
        part = next((part for part in MIMIC_PARTS if part in name), None)
        return part and f"{MIMIC}/{part}/images/{name}"

    listing = f"{MIMIC}/MIMIC-IT-imageonly.json"
    return Dialogues("chat-univi-mimic", folder, listing, place, padded_pictures, choice=Choice(most=most))


def science_qa(folder: Folder, most: int) -> Dialogues:
    """ScienceQA's questions that have a picture; its names are written with backslashes."""

    def place(name: str) -> str:
        return f"{SCIENCE}/train/" + name.replace("\\", "/")

    listing = f"{SCIENCE}/llava_train_QCM-LEA.json"
    return Dialogues("chat-univi-sqa", folder, listing, place, padded_pictures, choice=Choice(most=most))


def video_chat(folder: Folder, frames: tuple[int, int]) -> Dialogues:
    """Questions about ActivityNet's videos; `frames`: (least, most) of a clip."""
    listing, place = f"{VIDEO}/video_chat.json", f"{VIDEO}/Activity_Videos/{{}}".format
    read = functools.partial(sampled_video, frames=frames)
    return Dialogues("chat-univi-video", folder, listing, place, read, key="video")
