"""Readers of the training mixture's image sets. The constructor reads the metadata; each call of `draw` gives a random clip.

The layouts are those of the public loaders of VISA and VRS-HQ; all paths are inside the given root.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.batch import InputError
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.training.clip import Clip
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.evaluate.datasets.pickles import read_plain_pickle

IGNORE = 255  # a pixel of a label map that belongs to no class
EXPLAINED = 0.1  # share of the samples of an explained ReasonSeg picture that ask for words instead of masks (recipe)


def read_image(folder: Folder, name: str) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB.

    Raises:
        DatasetError: the file is not a JPEG or PNG picture that can be decoded.
        StorageError: the file cannot be read.
    """
    data = folder.read_bytes(name)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors for a broken picture
        raise DatasetError(f"{folder.uri_of(name)}: expected a JPEG or PNG picture that can be decoded") from error


def read_json(folder: Folder, name: str) -> Any:
    """The content of a JSON file in UTF-8, or in cp1252 as in some public copies.

    Raises:
        DatasetError: the file is not JSON.
        StorageError: the file cannot be read.
    """
    data = folder.read_bytes(name)
    try:
        try:
            return json.loads(data.decode())
        except UnicodeDecodeError:
            return json.loads(data.decode("cp1252"))
    except ValueError as error:
        raise DatasetError(f"{folder.uri_of(name)}: not a JSON file ({error})") from error


def paint(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of a COCO segmentation: polygons, or a compressed or uncompressed run-length code."""
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if len(part) >= 6]
        if not parts:
            return np.zeros((height, width), bool)
        code = coco.merge(coco.frPyObjects(parts, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    decoded: np.ndarray = coco.decode(code).astype(bool)
    return decoded


def image_clip(
    source: str, image: np.ndarray, texts: Sequence[str], masks: Sequence[np.ndarray], ignored: np.ndarray | None = None
) -> Clip:
    """A clip of one image (H, W, 3) uint8 with texts, their masks (H, W) bool, and pixels (H, W) bool that no loss uses."""
    stacked = np.stack(masks)[:, None] if masks else np.zeros((0, 1, *image.shape[:2]), bool)
    return Clip(source, image[None], tuple(map(normalize, texts)), stacked, ignored, is_video=False)


def some(random: np.random.Generator, items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, without repetition, in random order."""
    return [items[number] for number in random.permutation(len(items))[:most]]


class LabelMaps:
    """ADE20K, COCO-Stuff and Mapillary Vistas: an image, and a PNG with a class number at each pixel.

    Args:
        source: name of the data set.
        folder: root of the data set.
        labels: folder of the PNG label maps.
        images: folder of the JPEG images of the same names.
        names: class names by number; None for a class that is never asked for.
        offset: is subtracted from a PNG's number to give the class number; numbers below 0 become `IGNORE` (ADE20K's void).
        most: largest number of classes in a clip.
    """

    def __init__(
        self, source: str, folder: Folder, labels: str, images: str, names: Sequence[str | None], offset: int, most: int
    ) -> None:
        self.source, self.folder, self.labels, self.images = source, folder, labels, images
        self.names, self.offset, self.most = names, offset, most
        self.stems = [
            name.rpartition("/")[2].removesuffix(".png") for name in folder.list(labels) if name.endswith(".png")
        ]
        if not self.stems:
            raise DatasetError(f"{folder.uri_of(labels)}: no PNG label maps")

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random image."""
        while True:
            stem = self.stems[random.integers(len(self.stems))]
            with Image.open(io.BytesIO(self.folder.read_bytes(f"{self.labels}/{stem}.png")), formats=("PNG",)) as image:
                numbers = np.asarray(image).astype(np.int32) - self.offset
            numbers[(numbers < 0) | (numbers >= len(self.names))] = IGNORE
            present = np.flatnonzero(np.bincount(numbers.ravel())).tolist()  # np.unique sorts 12 million pixels
            found = [value for value in present if value != IGNORE and self.names[value]]
            if found:
                break
        chosen = some(random, found, self.most)
        picture = read_image(self.folder, f"{self.images}/{stem}.jpg")
        texts = [str(self.names[value]) for value in chosen]
        return image_clip(self.source, picture, texts, [numbers == value for value in chosen], numbers == IGNORE)


def ade20k(folder: Folder, most: int) -> LabelMaps:
    """ADE20K. `ade20k/classes.json` is a list of the 150 names; the public loader reads it from another path."""
    names = read_json(folder, "ade20k/classes.json")
    return LabelMaps("ade20k", folder, "ade20k/annotations/training", "ade20k/images/training", names, 1, most)


def coco_stuff(folder: Folder, most: int) -> LabelMaps:
    """COCO-Stuff. `cocostuff/classes.txt` has the class names, lines "id: name" after a title; names with "-" are unused."""
    lines = folder.read_bytes("cocostuff/classes.txt").decode().splitlines()[1:]
    names = [line.partition(": ")[2].strip() for line in lines if line.strip()]
    asked = [None if "-" in name else name for name in names]
    return LabelMaps("coco-stuff", folder, "cocostuff/train2017", "coco/train2017", asked, 0, most)


def mapillary(folder: Folder, most: int) -> LabelMaps:
    """Mapillary Vistas 2.0. Its class numbers are positions in the labels of its configuration.

    As in the recipe, texts are the readable names of all classes except "unlabeled", also of ambiguous and void ones.
    """
    labels = read_json(folder, "mapillary/config_v2.0.json")["labels"]
    names = [str(label["readable"]).lower() for label in labels]
    asked = [None if name == "unlabeled" else name for name in names]
    return LabelMaps("mapillary", folder, "mapillary/training/v2.0/labels", "mapillary/training/images", asked, 0, most)


class CocoParts:
    """PACO-LVIS and PASCAL-Part: COCO's annotations, whose categories may be parts ("dog:ear")."""

    def __init__(self, source: str, folder: Folder, annotations: str, images: str, most: int) -> None:
        self.source, self.folder, self.images_folder, self.most = source, folder, images, most
        data = read_json(folder, annotations)
        self.names = {item["id"]: spoken_category(item["name"]) for item in data["categories"]}
        self.images = {item["id"]: item for item in data["images"]}
        grouped: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for item in data["annotations"]:
            if not item.get("iscrowd"):
                grouped[item["image_id"]][item["category_id"]].append(item["segmentation"])
        self.grouped = {image: dict(categories) for image, categories in grouped.items() if image in self.images}
        self.order = sorted(self.grouped)
        if not self.order:
            raise DatasetError(f"{folder.uri_of(annotations)}: no annotated images")

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random image."""
        image = self.order[random.integers(len(self.order))]
        about = self.images[image]
        chosen = some(random, sorted(self.grouped[image]), self.most)
        size = about["height"], about["width"]
        masks = [np.any([paint(part, *size) for part in self.grouped[image][item]], axis=0) for item in chosen]
        picture = read_image(self.folder, f"{self.images_folder}/{about['file_name']}")
        return image_clip(self.source, picture, [self.names[item] for item in chosen], masks)


def spoken_category(name: str) -> str:
    """The spoken form of a category: "dog:ear" is "the ear of the dog".

    A qualifier that begins with "_(" is dropped, and underscores are spaces.
    """
    whole, _, part = (piece.split("_(")[0].replace("_", " ").strip() for piece in name.partition(":"))
    return f"the {part} of the {whole}" if part else whole


class ReasonSeg:
    """Images with a JSON of the same name: questions, and outlines of their answers and of areas to ignore.

    `explanatory/train.json` has an answer in words for some images. As in the recipe, `EXPLAINED` of their samples ask for the
    words alone, half of the others for masks and the words, and the rest for masks.
    """

    def __init__(self, folder: Folder, split: str, most: int) -> None:
        self.folder, self.most = folder, most
        base = f"reason_seg/ReasonSeg/{split}"
        self.stems = [name.removesuffix(".json") for name in folder.list(base) if name.endswith(".json")]
        if not self.stems:
            raise DatasetError(f"{folder.uri_of(base)}: no JSON files")
        items = read_json(folder, "reason_seg/ReasonSeg/explanatory/train.json")
        self.explanations = {str(item["image"]): str(item["outputs"]) for item in items}

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random image."""
        stem = self.stems[random.integers(len(self.stems))]
        about = read_json(self.folder, f"{stem}.json")
        picture = read_image(self.folder, f"{stem}.jpg")
        texts = some(random, about["text"], self.most)
        words = self.explanations.get(f"{stem.rpartition('/')[2]}.jpg")
        if words and random.random() < EXPLAINED:
            return Clip("reason-seg", picture[None], is_video=False, turns=((texts[0], words),))
        numbers = outlines(about["shapes"], *picture.shape[:2])
        clip = image_clip("reason-seg", picture, texts, [numbers == 1] * len(texts), numbers == IGNORE)
        if words and random.random() < 0.5:
            return replace(clip, words=(words,) * len(texts))
        return clip


def outlines(shapes: Sequence[dict[str, Any]], height: int, width: int) -> np.ndarray:
    """A label map (H, W) uint8 of the shapes: 1 target, 255 ignored. The largest shape is drawn first; flags are left out."""
    painted = np.zeros((height, width), np.uint8)
    layers = []
    for shape in shapes:
        label = str(shape["label"]).lower()
        if "flag" in label:
            continue
        points = [np.array(shape["points"], np.float64).round().astype(np.int32)]
        one = np.zeros((height, width), np.uint8)
        cv2.polylines(one, points, True, 1, 1)
        cv2.fillPoly(one, points, 1)
        layers.append((int(one.sum()), IGNORE if "ignore" in label else 1, one.astype(bool)))
    for _, value, where in sorted(layers, key=lambda layer: -layer[0]):
        painted[where] = value
    return painted


class Refer:
    """refCOCO, refCOCO+, refCOCOg and refCLEF: sentences about annotated objects of images."""

    def __init__(self, name: str, folder: Folder, most: int) -> None:
        base, by = f"refer_seg/{name}", "umd" if name == "refcocog" else "unc"
        self.source, self.folder, self.most = name, folder, most
        kind = "saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014"
        self.images_folder = f"refer_seg/images/{kind}"
        refs = read_plain_pickle(folder, f"{base}/refs({by}).p")
        data = read_json(folder, f"{base}/instances.json")
        self.annotations = {item["id"]: item for item in data["annotations"]}
        self.images = {item["id"]: item for item in data["images"]}
        grouped: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for ref in refs:
            if ref["split"] == "train" and ref["ann_id"] in self.annotations and ref["image_id"] in self.images:
                for sentence in ref["sentences"]:
                    if _usable(sentence["sent"]):
                        grouped[ref["image_id"]].append((ref["ann_id"], sentence["sent"]))
        self.grouped, self.order = dict(grouped), sorted(grouped)
        if not self.order:
            raise DatasetError(f"{folder.uri_of(base)}: no sentences of the split train")

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random image."""
        image = self.order[random.integers(len(self.order))]
        about = self.images[image]
        chosen = some(random, self.grouped[image], self.most)
        size = about["height"], about["width"]
        masks = [paint(self.annotations[annotation]["segmentation"], *size) for annotation, _ in chosen]
        picture = read_image(self.folder, f"{self.images_folder}/{about['file_name']}")
        return image_clip(self.source, picture, [text for _, text in chosen], masks)


def _usable(text: str) -> bool:
    try:
        return bool(normalize(text))
    except InputError:
        return False
