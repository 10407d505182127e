"""What a model gets wrong on synthetic videos: the choice of the object, its mask on the keyframe, or its tracking.

    vrshq synth SET --videos 60 --seed 3 --split valid
    python -m tests.benchmarks.where_right SET --split valid [--model tiny] [--run RUN]

Labels the set into RUN, unless that is finished, and compares each answer with all objects of its video, which are made again
from the set's seed. Only instructions that mean one object are counted, by kind:

    n        instructions
    J        IoU, the mean over the frames of the video; a frame that shows neither object nor mask counts 1
    key      IoU on the keyframe, of the instructions whose object it shows
    right    share of these whose mask overlaps no object more than the one that is meant
    wrong    share whose mask overlaps another object more
    none     share without a mask
    mask     IoU on the keyframe where the object is right
    track    IoU over the frames that show the object or a mask, as a share of that on the keyframe, where the object is right

The last line is the share of the absent instructions that have a mask on any frame.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vrshq import open_run
from vrshq.operators.synth import SynthConfig, SynthVideo, make_video
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings


def measure(truth: SynthVideo, wanted: int, masks: np.ndarray, keyframe: int) -> dict[str, float]:
    """The measures of one answer (T, H, W) bool that means the object with the number `wanted`."""
    objects = truth.masks
    each = ious(masks, objects[wanted])
    found = {"J": float(each.mean())}
    if not objects[wanted, keyframe].any():
        return found
    overlaps = (objects[:, keyframe] & masks[keyframe]).sum(axis=(1, 2))
    key = float(each[keyframe])
    none = not masks[keyframe].any()
    right = not none and bool(overlaps[wanted] > 0) and int(overlaps.argmax()) == wanted
    found |= {"key": key, "right": float(right), "none": float(none), "wrong": float(not none and not right)}
    if right:
        shown = objects[wanted].any(axis=(1, 2)) | masks.any(axis=(1, 2))
        found |= {"mask": key, "tracked": float(each[shown].mean())}
    return found


def ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of each frame of (T, H, W) bool; 1 where both are empty."""
    union = (one | other).sum(axis=(1, 2))
    return np.where(union > 0, (one & other).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


def compare(folder: Path, split: str, run_uri: str) -> tuple[dict[str, dict[str, list[float]]], list[float]]:
    """The measures of all instructions by kind, and for each absent one 1.0 if it has a mask."""
    about = json.loads((folder / "synth.json").read_text())
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in about["config"].items()}
    config = SynthConfig(**given)
    run = open_run(run_uri)
    keyframes: dict[tuple[str, str], Any] = {
        (row["video_id"], row["instruction_id"]): row["keyframe_index"] for row in run.tracks().to_pylist()
    }
    kinds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    masked: list[float] = []
    for index in range(about["videos"][split]):
        video = make_video(about["seed"], index, split, config)
        for one in video.expressions:
            if len(one.object_ids) > 1:
                continue
            masks = run.masks(video.video_id, one.expression_id).array()
            if not one.object_ids:
                masked.append(float(masks.any()))
                continue
            found = measure(video, one.object_ids[0], masks, keyframes[video.video_id, one.expression_id])
            for name, value in found.items():
                kinds[one.kind][name].append(value)
                kinds["all"][name].append(value)
    return kinds, masked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--run", help="default: SET-run")
    given = parser.parse_args()
    run = given.run or f"{given.set}-run"
    evaluate(
        "revos",
        str(given.set),
        run,
        split=given.split,
        settings=Settings.model_validate({"model": given.model}),
        use_ray=False,
    )
    kinds, masked = compare(given.set, given.split, run)
    print("kind         n      J    key  right  wrong   none   mask  track")
    for kind in ("referring", "attribute", "motion", "all"):
        means = {name: float(np.mean(values)) for name, values in kinds[kind].items()}
        track = means["tracked"] / means["mask"]
        columns = [*(means[name] for name in ("J", "key", "right", "wrong", "none", "mask")), track]
        print(f"{kind:10s} {len(kinds[kind]['J']):4d}  " + "  ".join(f"{value:.3f}" for value in columns))
    print(f"absent instructions with a mask: {np.mean(masked):.3f} of {len(masked)}")


if __name__ == "__main__":
    main()
