"""The evidence from which a presence head is trained: the stages up to the keyframe, over one video after the other.

    OUTPUT/evidence/data/000012.npz     what is known of the instructions of video 12, about 3 kB for each

A video whose file is there is not read again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import join_uri
from vrshq.operators.batch import Operator, Unit, new_batch, run_operators
from vrshq.operators.decode import Decode
from vrshq.operators.fuse import Fuse
from vrshq.operators.keyframe import SelectKeyframe
from vrshq.operators.models.evidence import Evidence
from vrshq.operators.presample import PreSample
from vrshq.operators.synth import SynthVideo, make_video
from vrshq.operators.tokens import Tokens
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.videos import local_video
from vrshq.pipelines.train.presence_settings import BenchmarkVideos, PresenceData, PresenceSettings, SynthVideos

Part = Literal["data", "held_out"]
_ARRAYS = ("scores", "ious", "shapes", "pooled", "similarities")  # of `Evidence`, with a row for each candidate


@dataclass(frozen=True)
class Judged:
    """The evidence of some instructions, and what is true of them.

    Attributes:
        evidence: one for each.
        present: whether the video shows what the instruction means, bool (E,).
        asks: what each asks for, in the data set's words, such as "motion".
    """

    evidence: Sequence[Evidence]
    present: np.ndarray
    asks: Sequence[str]


class MadeVideo:
    """A synthetic video in memory, with the interface of an open video."""

    def __init__(self, made: SynthVideo) -> None:
        self.array = made.frames
        self.num_frames, self.height, self.width = made.frames.shape[:3]
        self.pixel_aspect = 1.0

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames at the given indices: (n, H, W, 3) uint8 RGB."""
        chosen: np.ndarray = self.array[list(indices)]
        return chosen

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The frames start..stop-1, in order."""
        return iter(self.array[start:stop])


def gather(
    settings: PresenceSettings, part: Part, model: str, folder: Folder, on_video: Callable[[int, int], None]
) -> list[Judged]:
    """The evidence of all videos of a part of the data, in their order.

    Args:
        settings: of the run.
        part: the part.
        model: name or folder of a local bundle.
        folder: of the run.
        on_video: called after each video that was worked on, with the number of those that are done and of all.

    Raises:
        DatasetError: the data set cannot be read.
    """
    source: PresenceData = getattr(settings, part)
    videos = _openings(source)
    operators: list[Operator] = []
    for number, unit in enumerate(videos):
        name = f"evidence/{part}/{number:06d}.npz"
        if folder.exists(name):
            continue
        operators = operators or _operators(settings, model, decode=source.files is not None)
        with unit() as opened:
            judged = judge(operators, opened)
        folder.write_bytes(name, packed(judged))
        on_video(number + 1, len(videos))
    return [unpacked(folder.read_bytes(f"evidence/{part}/{number:06d}.npz")) for number in range(len(videos))]


def judge(operators: Sequence[Operator], unit: Unit) -> Judged:
    """The evidence of a unit's instructions that no stage failed. Its columns `present` and `asks` hold the truth.

    Raises:
        SettingsError: every instruction failed, as for a video that cannot be read.
    """
    batch = run_operators(operators, new_batch([unit]))
    errors = [error for error in batch["errors"][0] if error]
    if errors and len(errors) == len(unit["texts"]):
        first = errors[0]
        raise SettingsError(
            f"video {unit['video_id']}: {first['stage']} failed ({first['message']}); mend it or leave it out"
        )
    own = batch["evidence"][0] if unit["texts"] else []
    found = [row for row in zip(own, unit["present"], unit["asks"], strict=True) if row[0] is not None]
    return Judged(
        [one for one, _, _ in found], np.array([one for _, one, _ in found], bool), [one for _, _, one in found]
    )


def packed(judged: Judged) -> bytes:
    """Judged evidence as the bytes of a file of NumPy's."""
    own = judged.evidence
    arrays = {name: np.concatenate([getattr(one, name) for one in own]) for name in _ARRAYS} if own else {}
    arrays |= {
        "counts": np.array([len(one.scores) for one in own], np.int32),
        "keyframes": np.array([one.keyframe for one in own], np.int32),
        "prompts": np.array([one.prompt for one in own], np.float16),
        "present": judged.present,
        "asks": np.array(judged.asks, np.str_),
    }
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(content: bytes) -> Judged:
    """What `packed` made."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    ends = np.cumsum(stored["counts"])[:-1]
    rows = zip(*(np.split(stored[name], ends) for name in _ARRAYS), strict=True) if len(stored["counts"]) else ()
    evidence = [
        Evidence(**dict(zip(_ARRAYS, row, strict=True)), prompt=prompt, keyframe=int(keyframe))
        for row, prompt, keyframe in zip(rows, stored["prompts"], stored["keyframes"], strict=True)
    ]
    return Judged(evidence, stored["present"], stored["asks"].tolist())


def _operators(settings: PresenceSettings, model: str, *, decode: bool) -> list[Operator]:
    labelling = Settings.model_validate({**settings.labelling, "model": model})
    configs = labelling.operator_configs(model, settings.device)
    opening: list[Operator] = [Decode(configs["decode"])] if decode else []
    keyframe = SelectKeyframe(replace(configs["keyframe"], evidence=True))
    return [*opening, PreSample(configs["presample"]), Tokens(configs["tokens"]), Fuse(configs["fuse"]), keyframe]


def _openings(source: PresenceData) -> list[_Opening]:
    if source.synth is not None:
        return _made(source.synth)
    assert source.files is not None  # one of the two is given
    return _filed(source.files)


_Opening = Callable[[], contextlib.AbstractContextManager[Unit]]


def _made(config: SynthVideos) -> list[_Opening]:
    def unit(number: int) -> contextlib.AbstractContextManager[Unit]:
        made = make_video(config.seed, number, config.split, config.config)
        rows = [(one.expression_id, one.text, bool(one.object_ids), one.asks) for one in made.expressions]
        return contextlib.nullcontext(_unit(made.video_id, "", rows) | {"video": MadeVideo(made)})

    return [functools.partial(unit, number) for number in range(config.videos)]


def _filed(config: BenchmarkVideos) -> list[_Opening]:
    benchmark = open_benchmark(config.dataset, config.root, split=config.split)

    @contextlib.contextmanager
    def unit(number: int) -> Iterator[Unit]:
        video = benchmark.videos[number]
        rows = [
            (one.expression_id, one.text, one.kind != "no-target", one.asks or one.kind or "")
            for one in video.expressions
        ]
        with local_video(join_uri(config.root, video.uri), tempfile.gettempdir(), Settings().limits) as path:
            yield _unit(video.video_id, path, rows)

    total = len(benchmark.videos) if config.videos is None else min(config.videos, len(benchmark.videos))
    return [functools.partial(unit, number) for number in range(total)]


def _unit(video_id: str, path: str, rows: Sequence[tuple[str, str, bool, str]]) -> dict[str, Any]:
    ids, texts, present, asks = ([row[place] for row in rows] for place in range(4))
    about = {"unit_id": video_id, "video_id": video_id, "video_uri": path}
    return {**about, "instruction_ids": ids, "texts": texts, "present": present, "asks": asks}
