"""Tables of all videos in ReVOS's layout, built from one record per video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks.rle import encode
from vrshq.operators.synth import SynthVideo
from vrshq.pipelines.synth.files import JSON, MADE, write_json


def write_tables(target: Folder, records: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    """Writes the tables of all videos. `MADE` is the last file, because it marks the folder as complete.

    Args:
        target: the folder of the videos.
        records: records by video id, in order: those of `describe`, with `checksums`.
        settings: version, seed, config, format and videos of the run.
    """
    form, counts = settings["format"], settings["videos"]
    masks: dict[str, Any] = {}
    annotations: dict[str, list[int]] = {}
    for name, record in records.items():
        annotations[name] = list(range(len(masks), len(masks) + len(record["masks"])))
        masks |= dict(zip(map(str, annotations[name]), record["masks"], strict=True))
    kinds: dict[str, int] = {}
    for split in counts:
        chosen = {name: record for name, record in records.items() if record["split"] == split}
        metadata = {
            name: _metadata(number, record, annotations[name]) for number, (name, record) in enumerate(chosen.items())
        }
        write_json(target, f"meta_expressions_{split}_.json", {"videos": metadata})
        lines = list(_instructions(chosen, form))
        target.write_bytes(f"instructions_{split}.jsonl", "".join(f"{JSON.encode(line)}\n" for line in lines).encode())
        for line in lines:
            kinds[line["kind"]] = kinds.get(line["kind"], 0) + 1
    write_json(target, "mask_dict.json", masks)
    foreground = {
        name: {"masks_rle": record["foreground"], "foreground_ratio": record["foreground_ratio"]}
        for name, record in records.items()
    }
    write_json(target, "mask_dict_foreground.json", foreground)
    plain = ("split", "frames", "height", "width", "scene", "objects")
    write_json(target, "objects.json", {name: {key: r[key] for key in plain} for name, r in records.items()})
    checksums = {name: record["checksums"] for name, record in records.items()}
    total = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
    about = {**settings, "kinds": kinds, "checksum": total, "checksums": checksums}
    write_json(target, MADE, about)


def read_records(target: Folder) -> dict[str, dict[str, Any]]:
    """The records by video id that `write_tables` wrote into a complete folder."""

    def read(name: str) -> Any:
        return json.loads(target.read_bytes(name))

    about, masks, foreground = read(MADE), read("mask_dict.json"), read("mask_dict_foreground.json")
    metadata = {
        name: entry
        for split in about["videos"]
        for name, entry in read(f"meta_expressions_{split}_.json")["videos"].items()
    }
    records = {}
    first = 0  # the annotations of a video follow those of the one before it
    for name, plain in read("objects.json").items():
        keys = range(first, first + len(plain["objects"]))
        first = keys.stop
        expressions = metadata[name]["expressions"].values()
        records[name] = {
            **plain,
            "masks": [masks[str(key)] for key in keys],
            "foreground": foreground[name]["masks_rle"],
            "foreground_ratio": foreground[name]["foreground_ratio"],
            "expressions": [{key: one[key] for key in one if key != "anno_id"} for one in expressions],
            "checksums": about["checksums"][name],
        }
    return records


def _metadata(number: int, record: dict[str, Any], annotations: list[int]) -> dict[str, Any]:
    """A video's entry in ReVOS's meta_expressions."""
    expressions = {
        str(place): {**expression, "anno_id": [annotations[item] for item in expression["obj_id"]]}
        for place, expression in enumerate(record["expressions"])
    }
    return {
        "expressions": expressions,
        "frames": [f"{frame:05d}" for frame in range(record["frames"])],
        "height": record["height"],
        "width": record["width"],
        "vid_id": number,
    }


def _instructions(records: dict[str, dict[str, Any]], form: str) -> Iterable[dict[str, Any]]:
    """Rows of the instruction table; their uris are relative to the folder."""
    for name, record in records.items():
        for place, expression in enumerate(record["expressions"]):
            yield {
                "video_id": name,
                "video_uri": f"JPEGImages/{name}" if form == "jpeg" else f"videos/{name}.mp4",
                "instruction_id": str(place),
                "text": expression["exp"],
                "kind": expression["kind"],
                "subtype": expression["subtype"],
                "wording": expression["wording"],
            }


def describe(video: SynthVideo) -> dict[str, Any]:
    """The record of a video: its data in all tables, as JSON values."""
    frames, height, width = video.frames.shape[:3]
    union = np.asarray(video.masks.any(axis=0))
    return {
        "split": video.split,
        "frames": frames,
        "height": height,
        "width": width,
        "scene": {
            "background": video.background,
            "camera": video.camera,
            "light": video.light,
            "effects": video.effects,
            "theme": video.theme,
        },
        "masks": [_codes(mask, null_if_empty=True) for mask in video.masks],
        "foreground": _codes(union),
        "foreground_ratio": [round(float(ratio), 6) for ratio in union.mean(axis=(1, 2))],
        "objects": [
            {
                "obj_id": item.object_id,
                "shape": item.shape,
                "colour": item.colour,
                "texture": item.texture,
                "motion": item.program,
                "mask_area": video.masks[item.object_id].sum(axis=(1, 2)).tolist(),
                **{
                    name: np.round(getattr(item, name), 3).tolist()
                    for name in ("centre", "world", "radius", "scale", "angle", "area", "inside", "visible")
                },
            }
            for item in video.objects
        ],
        "expressions": [
            {
                "exp": e.text,
                "obj_id": list(e.object_ids),
                "type_id": e.type_id,
                "kind": e.kind,
                "subtype": e.subtype,
                "asks": e.asks,
                "wording": e.wording,
                "names": e.names,
            }
            for e in video.expressions
        ],
    }


def _codes(masks: np.ndarray, null_if_empty: bool = False) -> list[dict[str, Any] | None]:
    """COCO RLE of each mask (T, H, W) bool; with `null_if_empty`, None for an empty one."""
    size = list(masks.shape[1:])
    return [
        None if null_if_empty and not code.area else {"size": size, "counts": code.rle.decode("ascii")}
        for code in encode(masks)
    ]
