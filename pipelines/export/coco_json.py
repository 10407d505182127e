"""COCO's JSON by image, YouTube-VIS's by video, and ReVOS's with the results file that its evaluators read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vrshq.pipelines.export.answers import (
    EXTRACT,
    PATTERN,
    Answer,
    Answers,
    ExportSummary,
    FrameMask,
    RunVideo,
    empty_mask,
)
from vrshq.pipelines.export.sinks import JsonFile

CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
INFO = {
    "description": "masks of a vrshq run",
    "file_names": f"the source's own files; frames of video files: {PATTERN}, as `{EXTRACT}` writes them",
}
HEAD: dict[str, Any] = {"info": INFO, "licenses": [], "categories": CATEGORIES}


def write_coco(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`annotations.json`: an image for each frame, an annotation for each mask that is not empty, one category.

    An annotation also holds `video_id`, `instruction_id`, `object_id`, `caption` (the text) and `score` (the frame's object
    logit as a probability); an image `video_id` and `frame_index`. `file_name`: see `RunVideo.file_names`.
    """
    of_videos = 0
    with JsonFile(output / "annotations.json", HEAD, {"images": "[]", "annotations": "[]"}) as file:
        first_image = annotation_id = 1
        for video, found in answers:
            of_videos += video.files is None
            for index, (frame, name) in enumerate(zip(video.frames, video.file_names, strict=True)):
                image = {"id": first_image + index, "file_name": name}
                size = {"height": video.height, "width": video.width}
                file.add("images", image | size | {"video_id": video.video_id, "frame_index": frame})
            for answer, number, masks in _each_object(found):
                for index, mask in enumerate(masks):
                    if mask and mask.area:
                        annotation = {"id": annotation_id, "image_id": first_image + index, "category_id": 1}
                        annotation |= _coco_mask(video, answer, mask) | {"object_id": number}
                        file.add("annotations", annotation)
                        annotation_id += 1
            first_image += len(video.frames)
    _note_pattern(of_videos, summary)


def write_ytvis(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`annotations.json` in YouTube-VIS's form, and `submission.json`, its list of results, scored by presence.

    Each object is an annotation of its own. `file_names`: see `RunVideo.file_names`.
    """
    of_videos = 0
    with (
        JsonFile(output / "annotations.json", HEAD, {"videos": "[]", "annotations": "[]"}) as file,
        JsonFile(output / "submission.json", {}, {"": "[]"}) as submission,
    ):
        annotation_id = 0
        for number, (video, found) in enumerate(answers, start=1):
            of_videos += video.files is None
            size = {"height": video.height, "width": video.width, "length": len(video.frames)}
            file.add("videos", {"id": number, "file_names": video.file_names} | size | {"video_id": video.video_id})
            for answer, place, masks in _each_object(found):
                annotation_id += 1
                codes = [_rle(video, mask) if mask and mask.area else None for mask in masks]
                text = {"instruction_id": answer.instruction_id, "object_id": place, "caption": answer.text}
                common = {"video_id": number, "category_id": 1, "segmentations": codes}
                boxes = [list(mask.bbox) if mask and mask.area else None for mask in masks]
                areas = [mask.area or None if mask else None for mask in masks]
                own = {"id": annotation_id, "bboxes": boxes, "areas": areas, "iscrowd": 0}
                file.add("annotations", own | common | size | text)
                presence = answer.presence if answer.presence is not None and not math.isnan(answer.presence) else 0.0
                submission.add("", common | {"score": presence} | text)
    _note_pattern(of_videos, summary)


def write_revos(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """The exports `results.json` and ReVOS's layout.

    `results.json` with `{video: {instruction: {"prediction_masks": [RLE per frame]}}}`, as Sa2VA's evaluators read it;
    `meta_expressions_train_.json` and `mask_dict.json`, the run as a data set in ReVOS's layout, without `type_id`.

    Several objects of an answer are one mask. Holds one video's masks.
    """
    with (
        JsonFile(output / "results.json", {}, {"": "{}"}) as results,
        JsonFile(output / "meta_expressions_train_.json", {}, {"videos": "{}"}) as metadata,
        JsonFile(output / "mask_dict.json", {}, {"": "{}"}) as mask_dict,
    ):
        annotation = 0
        for number, (video, found) in enumerate(answers):
            predictions: dict[str, Any] = {}
            expressions: dict[str, Any] = {}
            empty = empty_mask(video.height, video.width)
            for place, answer in enumerate(found):
                merged = answer.merged(video, summary)
                masks = [_rle(video, mask or empty) for mask in merged]
                predictions[answer.instruction_id] = {"prediction_masks": masks}
                ids: dict[str, list[int]] = {"obj_id": [], "anno_id": []}
                if any(mask and mask.area for mask in merged):
                    ids = {"obj_id": [place], "anno_id": [annotation]}
                    pairs = zip(masks, merged, strict=True)
                    entries = [code if mask and mask.area else None for code, mask in pairs]
                    mask_dict.add("", entries, key=str(annotation))
                    annotation += 1
                expressions[answer.instruction_id] = {"exp": answer.text} | ids
            results.add("", predictions, key=video.video_id)
            frames = [name.rpartition(".")[0] for name in video.files] if video.files else video.names
            entry = {"expressions": expressions, "frames": frames, "height": video.height, "width": video.width}
            metadata.add("videos", entry | {"vid_id": number}, key=video.video_id)


def _each_object(found: Iterator[Answer]) -> Iterator[tuple[Answer, int, Sequence[FrameMask | None]]]:
    return ((answer, number, masks) for answer in found for number, masks in enumerate(answer.objects))


def _note_pattern(of_videos: int, summary: ExportSummary) -> None:
    if of_videos:
        summary.notes.append(f"the frames of {of_videos} videos are named {PATTERN}; `{EXTRACT}` writes such files")


def _rle(video: RunVideo, mask: FrameMask) -> dict[str, Any]:
    return {"size": [video.height, video.width], "counts": mask.rle.decode("ascii")}


def _coco_mask(video: RunVideo, answer: Answer, mask: FrameMask) -> dict[str, Any]:
    found: dict[str, Any] = {
        "segmentation": _rle(video, mask),
        "area": mask.area,
        "bbox": list(mask.bbox),
        "iscrowd": 0,
    }
    if mask.score is not None and not math.isnan(mask.score):
        found["score"] = 1 / (1 + math.exp(-max(min(mask.score, 700.0), -700.0)))
    text = {"video_id": video.video_id, "instruction_id": answer.instruction_id, "caption": answer.text}
    return found | text
