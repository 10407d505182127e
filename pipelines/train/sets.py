"""The sources of the training mixture by name: video benchmarks, image sets, dialogues, synthetic videos."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks import rle
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.training.clip import Clip, choose_frames
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import Benchmark, DatasetError, Expression, Video
from vrshq.pipelines.train.dialogues import llava_instruct, mimic, science_qa, video_chat
from vrshq.pipelines.train.images import CocoParts, ReasonSeg, Refer, ade20k, coco_stuff, mapillary, read_image
from vrshq.pipelines.train.mixture import Group, Mixture
from vrshq.pipelines.train.settings import FileData, SourceConfig, Stage


class VideoSet:
    """Clips of a video benchmark's training split: a random video, a random frame of each segment, some of its expressions.

    Videos with fewer than 2 frames or without expressions are left out, as in the recipe. An expression without objects is
    kept; its target is empty.
    """

    def __init__(self, name: str, config: FileData) -> None:
        self.benchmark: Benchmark = open_benchmark(name, config.root, split=config.split or "train")
        self.folder, self.config = Folder(config.root), config
        self.videos = [video for video in self.benchmark.videos if len(video.frames) > 1 and video.expressions]
        if not self.videos or not self.benchmark.has_masks:
            raise DatasetError(f"{config.root}: {name} has no videos with masks to train on")

        if self.benchmark.video_files:
            raise DatasetError(
                f"{config.root}: {name} has video files, training reads folders of frames; "
                "make the set with vrshq synth --format jpeg or both"
            )

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random video."""
        video = self.videos[random.integers(len(self.videos))]
        frames = choose_frames(random, len(video.frames), *self.config.frames)
        order = random.permutation(len(video.expressions))[: self.config.expressions]
        asked = [video.expressions[number] for number in order]
        pictures = np.stack([read_image(self.folder, f"{video.uri}/{video.frames[frame]}.jpg") for frame in frames])
        return Clip(
            self.benchmark.name,
            pictures,
            tuple(normalize(expression.text) for expression in asked),
            np.stack([self._masks(video, expression, frames, pictures.shape[1:3]) for expression in asked]),
        )

    def _masks(self, video: Video, expression: Expression, frames: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        found = self.benchmark.masks(video, expression)
        result = np.zeros((len(frames), *size), bool)
        for place, frame in enumerate(frames):
            for code in found[frame] if frame < len(found) else []:
                mask = rle.decode(code["counts"], *code["size"])
                if mask.shape == size:  # a mask whose size differs from its frame's is an error of the data set
                    result[place] |= mask.astype(bool)
        return result


Reader = Callable[[FileData], Any]
VIDEO_SETS = ("revos", "mevis", "ref-youtube-vos", "ref-davis17", "lvvis")
REFER_SETS = ("refcoco", "refcoco+", "refcocog", "refclef")


def _refer(name: str, config: FileData) -> Refer:
    return Refer(name, Folder(config.root), config.expressions)


READERS: dict[str, Reader] = {
    **{name: functools.partial(VideoSet, name) for name in VIDEO_SETS},
    **{name: functools.partial(_refer, name) for name in REFER_SETS},
    "ade20k": lambda config: ade20k(Folder(config.root), config.expressions),
    "coco-stuff": lambda config: coco_stuff(Folder(config.root), config.expressions),
    "mapillary": lambda config: mapillary(Folder(config.root), config.expressions),
    "paco-lvis": lambda config: CocoParts(
        "paco-lvis", Folder(config.root), "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco", config.expressions
    ),
    "pascal-part": lambda config: CocoParts(
        "pascal-part",
        Folder(config.root),
        "vlpart/pascal_part/train.json",
        "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
        config.expressions,
    ),
    "reason-seg": lambda config: ReasonSeg(Folder(config.root), config.split or "train", config.expressions),
    "llava-instruct": lambda config: llava_instruct(Folder(config.root)),
    "chat-univi-mimic": lambda config: mimic(Folder(config.root), config.frames[1]),
    "chat-univi-sqa": lambda config: science_qa(Folder(config.root), config.frames[1]),
    "chat-univi-video": lambda config: video_chat(Folder(config.root), config.frames),
}


def open_mixture(stage: Stage, seed: int) -> Mixture:
    """The mixture of a stage; opening a data set reads its metadata.

    Raises:
        DatasetError: a reader that does not exist, or a data set that cannot be read.
    """
    return Mixture(
        {name: (item.weight, open_source(item)) for name, item in stage.data.items()}, seed, balance=stage.balance
    )


def open_source(config: SourceConfig) -> Any:
    """The source of clips that a config describes."""
    if config.group is not None:
        return Group({name: (item.weight, open_source(item)) for name, item in config.group.items()})
    if config.files is None:
        return config.synth
    if config.files.reader not in READERS:
        raise DatasetError(f"reader {config.files.reader!r}: expected one of {', '.join(sorted(READERS))}")
    return READERS[config.files.reader](config.files)
