"""The formats of `vrshq export`, by name: each writer's docstring says what its files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vrshq.pipelines.export.answers import Answers, ExportSummary
from vrshq.pipelines.export.coco_json import write_coco, write_revos, write_ytvis
from vrshq.pipelines.export.cutouts import write_cutout_films, write_cutouts
from vrshq.pipelines.export.cvat import write_cvat
from vrshq.pipelines.export.davis import write_davis
from vrshq.pipelines.export.fiftyone import write_fiftyone
from vrshq.pipelines.export.mask_films import write_mask_films
from vrshq.pipelines.export.overlay import write_overlays
from vrshq.pipelines.export.trees import write_mevis, write_palette_tree, write_png_tree, write_ref_youtube_vos
from vrshq.pipelines.export.yolo import write_yolo

FORMATS: dict[str, Callable[[Answers, Path, ExportSummary], None]] = {
    "png-tree": write_png_tree,
    "mevis-zip": write_mevis,
    "refytvos-zip": write_ref_youtube_vos,
    "davis-official": write_davis,
    "palette-png": write_palette_tree,
    "coco-rle": write_coco,
    "ytvis-json": write_ytvis,
    "revos-json": write_revos,
    "cvat": write_cvat,
    "fiftyone": write_fiftyone,
    "overlay-mp4": write_overlays,
    "mask-mp4": write_mask_films,
    "cutout": write_cutouts,
    "cutout-webm": write_cutout_films,
    "yolo-seg": write_yolo,
}
# Names that people use for these formats.
ALIASES = {
    "png": "png-tree",
    "palette": "palette-png",
    "mevis": "mevis-zip",
    "ref-youtube-vos": "refytvos-zip",
    "refytvos": "refytvos-zip",
    "davis": "davis-official",
    "coco": "coco-rle",
    "ytvis": "ytvis-json",
    "youtube-vis": "ytvis-json",
    "revos": "revos-json",
    "overlay": "overlay-mp4",
    "mask-video": "mask-mp4",
    "cutout-png": "cutout",
    "yolo": "yolo-seg",
}
