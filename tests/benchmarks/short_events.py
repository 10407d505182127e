"""Short events: clips of 64 frames whose target shows for 2, 4, 8 or 16 of them, by the frames that the MLLM reads.

    python -m tests.benchmarks.short_events [--model tiny] [--videos 8] [--output FOLDER]

Each clip is a scene of `vrshq synth` with three objects of different colours. The front one exists for a window of the frames
alone, and the instruction names it by its colour and shape ("the red disc"). The set is written in ReVOS's layout, so
`vrshq evaluate revos --root FOLDER/set --split test` takes it, too.

Prints, by length of the event and sampler: the share of clips of which a sampled frame shows the target, and the keyframe does;
J on the frames that show it; the share of empty masks on the others. The same arguments give the same clips.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.synth import SynthConfig
from vrshq.operators.synth.coverage import layer
from vrshq.operators.synth.drawing import draw_lens, draw_look, draw_patches, paint
from vrshq.operators.synth.scene import draw_scene
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TRACKS

LENGTH = 64
SHOWN = (2, 4, 8, 16)
LEAST_PIXELS = 60
VARIANTS: dict[str, dict[str, Any]] = {
    "grid, 12 (published)": {},
    "spread, 12": {"sampler": "spread", "max_image_token": 12},
    "spread, 24": {"sampler": "spread", "max_image_token": 24},
}


class Event(NamedTuple):
    """A clip with its target: frames (T, H, W, 3) uint8, the target's mask (T, H, W) bool, and the text that names it."""

    frames: np.ndarray
    mask: np.ndarray
    text: str


def make_event(seed: int, index: int, shown: int) -> Event:
    """A clip whose target exists for `shown` neighbouring frames and is clearly visible on each."""
    config = SynthConfig(frames=(LENGTH, LENGTH), short_sides=(128,), aspects=(1.0,), objects=(3, 3), effects=0.0)
    random = np.random.default_rng((seed, index, shown))
    while True:
        scene = draw_scene(random, config, "test")
        target = scene.actors[-1]
        first = int(random.integers(2, LENGTH - shown - 2))
        present = np.zeros(LENGTH, bool)
        present[first : first + shown] = True
        scene = replace(scene, actors=(*scene.actors[:-1], replace(target, path=replace(target.path, present=present))))
        looks = [draw_look(random, actor, config.banded) for actor in scene.actors]
        lens = draw_lens(random, config.effects)
        layers = layer(draw_patches(scene, looks, lens), scene.height, scene.width)
        areas = layers.masks[-1].sum((1, 2))
        others = {actor.colour for actor in scene.actors[:-1]}
        if (areas[present] >= LEAST_PIXELS).all() and not areas[~present].any() and target.colour not in others:
            frames, _ = paint(random, scene, looks, layers.patches, lens)
            return Event(np.asarray(frames), layers.masks[-1], f"the {target.colour} {target.shape}")


def write_set(root: Path, videos: int, seed: int) -> None:
    """Writes `videos` clips of each length of event in ReVOS's layout, split test."""
    metadata: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for shown in SHOWN:
        for index in range(videos):
            event, name = make_event(seed, index, shown), f"shown_{shown:02d}_{index:03d}"
            folder = root / "JPEGImages" / name
            folder.mkdir(parents=True)
            for number, frame in enumerate(event.frames):
                Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=95)
            key = str(len(masks))
            masks[key] = [_code(mask) if mask.any() else None for mask in event.mask]
            expression = {"exp": event.text, "obj_id": [0], "anno_id": [int(key)], "type_id": 0}
            metadata[name] = {
                "frames": [f"{number:05d}" for number in range(LENGTH)],
                "height": event.mask.shape[1],
                "width": event.mask.shape[2],
                "expressions": {"0": expression | {"asks": "referring", "subtype": f"{shown} of {LENGTH} frames"}},
            }
    (root / "meta_expressions_test_.json").write_text(json.dumps({"videos": metadata}))
    (root / "mask_dict.json").write_text(json.dumps(masks))


def _code(mask: np.ndarray) -> dict[str, Any]:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def measured(run: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """The numbers of one run by length of the event."""
    columns = ["video_id", "sampled_frames"]
    tracks = RunDirectory(str(run)).read("tracks", TRACKS, columns).to_pylist()
    sampled = {track["video_id"]: track["sampled_frames"] for track in tracks}
    rows = [row for row in pq.read_table(run / "scores.parquet").to_pylist() if row["status"] == "ok"]
    for shown in SHOWN:
        kind = f"{shown} of {LENGTH} frames"
        read, key, overlap, empty = [], [], [], []
        for row in (one for one in rows if one["subtype"] == kind):
            visible, j = np.array(row["frame_shown"]), np.array(row["frame_J"])
            read.append(visible[sampled[row["video_id"]]].any())
            key.append(visible[np.array(row["frame_distance"]) == 0].any())
            overlap.append(j[visible].mean())
            empty.append((j[~visible] == 1).mean())  # J of two empty masks
        names = ("clips", "a sampled frame shows it", "the keyframe shows it", "J where shown", "empty elsewhere")
        values = (len(read), *(100 * float(np.mean(part)) for part in (read, key, overlap, empty)))
        yield kind, dict(zip(names, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--videos", type=int, default=8, help="clips of each length of event")
    parser.add_argument("--seed", type=int, default=29)
    parser.add_argument(
        "--output", type=Path, help="new folder of the set, the runs and events.json; default: none stays"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = options.output or Path(scratch)
        write_set(output / "set", options.videos, options.seed)
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name, sampling in VARIANTS.items():
            run = output / name.replace(", ", "-").replace(" ", "-")
            settings = Settings.model_validate({"model": options.model, "sampling": sampling})
            evaluate("revos", str(output / "set"), str(run), settings, split="test", use_ray=False)
            found[name] = dict(measured(run))
            (output / "events.json").write_text(json.dumps(found, indent=2) + "\n")
            for kind, values in found[name].items():
                print(
                    f"{name:22} {kind:16}" + "".join(f"  {text} {value:.1f}" for text, value in values.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
