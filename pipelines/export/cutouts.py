"""Cutouts: each object on transparent ground, as PNG pictures or as a WebM film with alpha."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from vrshq.operators.masks.rle import decode
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, FrameMask, RunVideo
from vrshq.pipelines.export.films import Film, Pictures, Source, each_answer, write_film

# VP9 has alpha in WebM, which browsers play over the page; its `auto-alt-ref` frames have none.
FILM = Film(
    "webm",
    "libvpx-vp9",
    "yuva420p",
    options={"crf": "20", "b": "0", "deadline": "good", "cpu-used": "6", "row-mt": "1", "auto-alt-ref": "0"},
    header={"fflags": "+bitexact"},  # else each file has a number drawn by chance
)
_REACH = 9  # pixels around an object that take its colours, because 4:2:0 and the codec mix neighbours


def write_cutouts(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>/<object>/<frame>.png`: the object's own pixels, exact; all others black with alpha 0.

    Each object has its folder, numbered from 0; a frame without the object is a picture without an opaque pixel. A video that
    cannot be read is left out with a note. Memory does not depend on its length; each instruction costs one decode of it.
    """

    def write(place: Path, video: RunVideo, answer: Answer, source: Source) -> None:
        for number in range(len(answer.objects)):
            (place / str(number)).mkdir(parents=True, exist_ok=True)
        for spot, (index, name) in enumerate(zip(video.frames, video.names, strict=True)):
            masks = [masks[spot] for masks in answer.objects]
            if not any(masks):
                continue
            (picture,) = source.frames.frames([index])
            for number, mask in enumerate(masks):
                inside = _inside(video, mask)
                cut = np.dstack([picture[..., ::-1] * inside[..., None], inside * np.uint8(255)])
                (place / str(number) / f"{name}.png").write_bytes(cv2.imencode(".png", cut)[1].tobytes())

    each_answer(answers, output, summary, "cutouts", write)


def write_cutout_films(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>/<object>.webm`: the object on transparent ground, VP9 with alpha, which browsers play.

    Each object has its file, numbered from 0. Frames keep their times, to the millisecond. Colours and alpha are encoded with
    loss; `write_cutouts` has none. What is transparent holds the object's own colours, not the video's. A video that cannot be
    read is left out with a note. Memory does not depend on its length; each object costs one decode of the video.
    """

    def write(place: Path, video: RunVideo, answer: Answer, source: Source) -> None:
        place.mkdir(parents=True, exist_ok=True)
        for number, masks in enumerate(answer.objects):
            pictures = _pictures(video, masks, source)
            write_film(place / f"{number}.webm", FILM, pictures, source.times, video.pixel_aspect)

    each_answer(answers, output, summary, "cutouts", write)


def _pictures(video: RunVideo, masks: Sequence[FrameMask | None], source: Source) -> Pictures:
    for index, mask in zip(video.frames, masks, strict=True):
        if mask:
            (picture,) = source.frames.frames([index])
            inside = _inside(video, mask)
            cut = np.dstack([spread(picture, inside), inside * np.uint8(255)])
            yield index, av.VideoFrame.from_ndarray(np.ascontiguousarray(cut), format="rgba")


def _inside(video: RunVideo, mask: FrameMask | None) -> np.ndarray:
    """(H, W) uint8 of 0 and 1."""
    if not mask or not mask.area:
        return np.zeros((video.height, video.width), np.uint8)
    return decode(mask.rle, video.height, video.width)


def spread(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) uint8; pixels not `inside` get the colours of those nearby that are, or else the mean of these."""
    if not inside.any():
        return np.zeros_like(picture)
    weight = inside.astype(np.float32)
    own = picture * weight[..., None]
    size = (2 * _REACH + 1, 2 * _REACH + 1)
    near = cv2.boxFilter(weight, -1, size, normalize=False)[..., None]
    around = cv2.boxFilter(own, -1, size, normalize=False) / np.maximum(near, 1)
    mean = own.sum((0, 1)) / weight.sum()
    others = np.where(near > 0.5, around, mean)
    filled: np.ndarray = np.where(inside[..., None] > 0, picture, others.round()).astype(np.uint8)
    return filled
