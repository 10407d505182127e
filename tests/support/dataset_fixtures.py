"""Writers of small data sets, one for each layout: JPEG frames of moving shapes, and their exact masks.

Each writer fills a folder and returns the truth: (video_id, expression_id) -> union of the expression's masks, (T, H, W) bool.
`make_clip` draws the frames.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

Truth = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Clip:
    """A drawn video. `frames` is (T, H, W, 3) uint8; `objects` maps an id to its mask (T, H, W) bool. Masks do not overlap."""

    frames: np.ndarray
    objects: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, height and width: (T, H, W)."""
        length, height, width, _ = self.frames.shape
        return length, height, width


def make_clip(seed: int = 0, length: int = 4, height: int = 48, width: int = 64) -> Clip:
    """A moving disk "1" and a moving square "2". The first frame does not show the square."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    frames = np.full((length, height, width, 3), 60, np.uint8)
    frames[..., 1] = (columns * 2 + seed * 16) % 200
    disk, square = np.zeros((2, length, height, width), bool)
    row, column = int(rng.integers(12, height // 2)), int(rng.integers(10, 16))
    for index in range(length):
        disk[index] = (rows - row - index) ** 2 + (columns - column - 2 * index) ** 2 <= 64
        top, left = height - 18 - index, width - 22 - index
        square[index, top : top + 12, left : left + 14] = index > 0
    square &= ~disk
    frames[disk] = (220, 40, 40)
    frames[square] = (40, 40, 230)
    return Clip(frames, {"1": disk, "2": square})


def rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of a mask (H, W) bool with its counts as str, as in JSON."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def rles(masks: np.ndarray) -> list[dict[str, Any] | None]:
    """The RLE of each frame of (T, H, W) bool; None for a frame without the object."""
    return [rle(mask) if mask.any() else None for mask in masks]


def stems(length: int, step: int = 1) -> list[str]:
    """Names of frames: 0, step, 2 * step, ... with five digits."""
    return [f"{index * step:05d}" for index in range(length)]


def write_frames(folder: Path, clip: Clip, names: Iterable[str] | None = None) -> None:
    """Writes `<name>.jpg` for each frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, name in zip(clip.frames, names or stems(clip.shape[0]), strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=92)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_palette(folder: Path, clip: Clip, names: Iterable[str] | None = None) -> None:
    """Writes `<name>.png` for each frame: a palette image whose values are object ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names or stems(clip.shape[0])):
        ids = np.zeros(clip.shape[1:], np.uint8)
        for object_id, masks in clip.objects.items():
            ids[masks[index]] = int(object_id)
        image = Image.fromarray(ids, "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        image.save(folder / f"{name}.png")


def union(clip: Clip, object_ids: Iterable[str]) -> np.ndarray:
    """The union of some objects' masks, (T, H, W) bool; empty without ids."""
    masks = [np.zeros(clip.shape, bool), *(clip.objects[object_id] for object_id in object_ids)]
    joined: np.ndarray = np.any(masks, axis=0)
    return joined


def write_revos(root: Path, split: str = "valid", videos: Mapping[str, Clip] | None = None) -> Truth:
    """Writes ReVOS. Every video has expressions "0" (referring, the disk), "1" (reasoning, both) and "2" (no target)."""
    clips = videos or {"TAO/clip one": make_clip(1), "MOSE_b": make_clip(2, length=5, height=40, width=72)}
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    foreground: dict[str, Any] = {}
    for number, (video_id, clip) in enumerate(clips.items()):
        length, height, width = clip.shape
        write_frames(root / "JPEGImages" / video_id, clip)
        annotations = {object_id: 10 * number + int(object_id) for object_id in clip.objects}
        masks |= {str(annotations[object_id]): rles(found) for object_id, found in clip.objects.items()}
        expressions: dict[str, Any] = {}
        for expression_id, (text, type_id, meant) in enumerate(
            [("the red disk", 0, ["1"]), ("what moves", 1, ["1", "2"]), ("the green elephant", 2, [])]
        ):
            expressions[str(expression_id)] = {
                "exp": f"{text} of {video_id}",
                "obj_id": [int(object_id) for object_id in meant],
                "anno_id": [annotations[object_id] for object_id in meant],
                "type_id": type_id,
            }
            truth[video_id, str(expression_id)] = union(clip, meant)
        metadata[video_id] = {
            "expressions": expressions,
            "frames": stems(length),
            "height": height,
            "width": width,
            "vid_id": number,
        }
        everything = union(clip, clip.objects)
        foreground[video_id] = {
            "masks_rle": [rle(mask) for mask in everything],
            "foreground_ratio": [float(mask.mean()) for mask in everything],
        }
    write_json(root / f"meta_expressions_{split}_.json", {"videos": metadata})
    write_json(root / "mask_dict.json", masks)
    write_json(root / "mask_dict_foreground.json", foreground)
    return truth


def write_mevis(root: Path, split: str = "valid_u", *, version: int = 1) -> Truth:
    """Writes MeViS: masks for train and valid_u, texts alone for valid and test. Version 2 adds a no-target expression."""
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    has_masks = split in ("train", "valid_u")
    for number, video_id in enumerate(["0ab4afe7fb46", "1f2ea7b0a2b3"]):
        clip = make_clip(number + 3, length=3 + number)
        write_frames(root / split / "JPEGImages" / video_id, clip)
        annotations = {object_id: 100 * number + int(object_id) for object_id in clip.objects}
        masks |= {str(annotations[object_id]): rles(found) for object_id, found in clip.objects.items()}
        texts = [("the disk moving right", ["1"]), ("both things moving", ["1", "2"])]
        texts += [("the bird flying away", [])] if version == 2 else []
        expressions: dict[str, Any] = {}
        for place, (text, meant) in enumerate(texts):
            ids = {
                "obj_id": [int(object_id) for object_id in meant],
                "anno_id": [annotations[object_id] for object_id in meant],
            }
            expressions[str(place)] = {"exp": text} | (ids if has_masks else {})
            if has_masks:
                truth[video_id, str(place)] = union(clip, meant)
        length, height, width = clip.shape
        sizes = {"height": height, "width": width, "vid_id": number}
        metadata[video_id] = {"expressions": expressions, "frames": stems(length)} | sizes
    name = "meta_expressions_v2.json" if version == 2 else "meta_expressions.json"
    write_json(root / split / name, {"videos": metadata})
    if has_masks:
        write_json(root / split / "mask_dict.json", masks)
    return truth


def write_lvvis(root: Path) -> Truth:
    """Writes LV-VIS: the format of MeViS under train/, with category names with underscores as texts."""
    truth: Truth = {}
    clip = make_clip(7)
    write_frames(root / "train" / "JPEGImages" / "00001", clip)
    expressions = {
        "0": {"exp": "red_disk", "obj_id": [1], "anno_id": [1]},
        "1": {"exp": "blue_square_(toy)", "obj_id": [2], "anno_id": [2]},
    }
    length, height, width = clip.shape
    video = {"expressions": expressions, "frames": stems(length), "height": height, "width": width, "vid_id": 0}
    write_json(root / "train" / "meta_expressions.json", {"videos": {"00001": video}})
    write_json(root / "train" / "mask_dict.json", {key: rles(found) for key, found in clip.objects.items()})
    for expression_id, object_id in (("0", "1"), ("1", "2")):
        truth["00001", expression_id] = union(clip, [object_id])
    return truth


def write_ref_youtube_vos(root: Path) -> Truth:
    """Writes Ref-YouTube-VOS with three metadata files. The truth is that of train, as palette images and as mask_dict.pkl.

    Videos are written out of order, and "bbb" has twelve expressions, so that the running index over sorted videos and
    string-sorted expression ids ("10" before "2") differs from the file's order.
    """
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for number, video_id in enumerate(["bbb", "aaa"]):
        clip = make_clip(number + 11, length=3)
        names = stems(3, step=5)
        write_frames(root / "train" / "JPEGImages" / video_id, clip, names)
        write_palette(root / "train" / "Annotations" / video_id, clip, names)
        expressions = {}
        for place in range(12 if video_id == "bbb" else 2):
            object_id = str(place % 2 + 1)
            expressions[str(place)] = {"exp": f"text {place} of {video_id}", "obj_id": object_id}
            truth[video_id, str(place)] = union(clip, [object_id])
        metadata[video_id] = {"expressions": expressions, "frames": names}
        objects[video_id] = {"objects": {key: {"category": "toy", "frames": names} for key in clip.objects}}
    write_json(root / "meta_expressions" / "train" / "meta_expressions.json", {"videos": metadata})
    write_json(root / "train" / "meta.json", {"videos": objects})
    write_running_index(root / "train" / "mask_dict.pkl", truth)
    listed: dict[str, Any] = {}
    for number, video_id in enumerate(["v_scored", "v_test", "v_too"]):
        write_frames(root / "valid" / "JPEGImages" / video_id, make_clip(number + 20, length=3), stems(3, step=5))
        expressions = {"0": {"exp": "the disk"}, "1": {"exp": "the square"}}
        listed[video_id] = {"expressions": expressions, "frames": stems(3, step=5)}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": listed})
    hidden = {"v_test": listed["v_test"]}
    write_json(root / "meta_expressions" / "test" / "meta_expressions.json", {"videos": hidden})
    return truth


def write_running_index(path: Path, truth: Truth) -> None:
    """Writes VISA's mask_dict.pkl: running index over sorted videos and string-sorted expression ids -> RLEs with bytes."""
    masks = {
        str(index): [None if code is None else code | {"counts": code["counts"].encode()} for code in rles(truth[key])]
        for index, key in enumerate(sorted(truth))
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(masks))


def write_ref_davis(root: Path) -> Truth:
    """Writes split valid of Ref-DAVIS17 as ReferFormer converts it: palette annotations, and VISA's mask_dict.pkl.

    Each video has two objects with four texts each: expression_id = 4 * object_index + annotator.
    """
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    for number, video_id in enumerate(["goat", "bike-packing"]):
        clip = make_clip(number + 31, length=5)
        write_frames(root / "valid" / "JPEGImages" / video_id, clip)
        write_palette(root / "valid" / "Annotations" / video_id, clip)
        expressions = {}
        for place in range(8):
            object_id = str(place // 4 + 1)
            expressions[str(place)] = {"exp": f"object {object_id} by annotator {place % 4}", "obj_id": object_id}
            truth[video_id, str(place)] = union(clip, [object_id])
        metadata[video_id] = {"expressions": expressions, "frames": stems(5)}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": metadata})
    objects = {"objects": {key: {"category": "toy"} for key in ("1", "2")}}
    write_json(root / "valid" / "meta.json", {"videos": dict.fromkeys(metadata, objects)})
    write_running_index(root / "valid" / "mask_dict.pkl", truth)
    return truth


def write_reasonvos(root: Path) -> Truth:
    """Writes ReasonVOS: binary images in Annotations/<source>_<video>_<obj_id>. Two texts share an object."""
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    for number, (video_id, source) in enumerate([("clip_a", "MOSE"), ("clip_b", "DAVIS")]):
        clip = make_clip(number + 41, length=3)
        write_frames(root / "JPEGImages" / video_id, clip)
        for object_id in clip.objects:
            write_binary(root / "Annotations" / f"{source}_{video_id}_{object_id}", clip.objects[object_id])
        expressions = {
            "0": {"exp_text": "which thing is round?", "obj_id": 1},
            "1": {"exp_text": "what would roll?", "obj_id": 1},
            "2": {"exp_text": "what would not roll?", "obj_id": 2},
        }
        for key, expression in expressions.items():
            truth[video_id, key] = union(clip, [str(expression["obj_id"])])
        described = {"source": source, "is_sent": True, "frames": stems(3)}
        metadata[video_id] = described | {"expressions": expressions}
    write_json(root / "meta_expressions.json", {"videos": metadata})
    return truth


def write_long_rvos(root: Path, split: str = "valid", *, annotated: bool = True) -> Truth:
    """Writes Long-RVOS: an annotation folder per object, without an image where the object is not visible.

    The ids of objects are numbers in the metadata, or texts, as copies have both.
    """
    truth: Truth = {}
    metadata: dict[str, Any] = {}
    for number, video_id in enumerate(["17aeae3bea", "0b2d4f"]):
        clip = make_clip(number + 61, length=5)
        names = stems(5, step=5)
        write_frames(root / split / "JPEGImages" / video_id, clip, names)
        expressions: dict[str, Any] = {}
        for key, text, kind, object_id in (
            ("0", "a red disk", "static", "1"),
            ("1", "the thing that comes later", "dynamic", "2"),
            ("2", "the blue square that comes later", "static+dynamic", "2"),
        ):
            expressions[key] = {"exp": text, "obj_id": int(object_id) if number else object_id, "type": kind}
            truth[video_id, key] = union(clip, [object_id])
        for object_id, masks in clip.objects.items() if annotated else ():
            shown = [place for place, mask in enumerate(masks) if mask.any()]
            folder = root / split / "Annotations" / video_id / object_id
            write_binary(folder, masks[shown], [names[place] for place in shown])
        metadata[video_id] = {"frames": names, "expressions": expressions}
    write_json(root / split / "meta_expressions.json", {"videos": metadata})
    return truth


def write_binary(folder: Path, masks: np.ndarray, names: Iterable[str] | None = None) -> None:
    """Writes `<name>.png` for each frame: one channel, values 0 and 255."""
    folder.mkdir(parents=True, exist_ok=True)
    for mask, name in zip(masks, names or stems(len(masks)), strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")


def write_png_tree(root: Path) -> Truth:
    """Writes the layout png-tree: meta_expressions.json, JPEGImages, Annotations/<video>/<expression>/<frame>.png."""
    truth: Truth = {}
    clip = make_clip(51)
    write_frames(root / "JPEGImages" / "set/one", clip)
    expressions = {"a": {"exp": "the disk"}, "b": {"exp": "the square"}, "none": {"exp": "the cat", "type_id": 2}}
    for key, meant in (("a", ["1"]), ("b", ["2"]), ("none", [])):
        truth["set/one", key] = union(clip, meant)
        if meant:
            write_binary(root / "Annotations" / "set/one" / key, truth["set/one", key])
    video = {"frames": stems(clip.shape[0]), "expressions": expressions}
    write_json(root / "meta_expressions.json", {"videos": {"set/one": video}})
    return truth
