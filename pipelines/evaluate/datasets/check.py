"""The validator of `vrshq evaluate --check`: compares all files of a benchmark and reports every inconsistency."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.batch import InputError
from vrshq.operators.masks.rle import Rle
from vrshq.operators.video.frame_names import IMAGE_SUFFIXES
from vrshq.operators.video.video import open_video
from vrshq.pipelines.evaluate.datasets.alignment import better_shift, edges, outline, small_size
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Expression, Video
from vrshq.pipelines.evaluate.datasets.codes import MAX_PIXELS
from vrshq.pipelines.evaluate.datasets.problems import Report
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark, MaskDict

_READERS = 8
_COMPARED_FRAMES = 60  # of the middle of a video, on which another shift of the masks is tried
NOTHING = np.zeros(0, np.int64)

Size = tuple[int, int]  # height, width


def check_files(benchmark: FileBenchmark, report: Report) -> None:
    """Adds every inconsistency of an opened benchmark to `report`. It raises nothing for a fault of the data.

    Cost: reads and decodes every frame that the metadata lists (JPEG files at an eighth of their size) and every mask.
    `_COMPARED_FRAMES` frames of each video are decoded once more for `_check_shift`. The names of all frame files are in
    memory.
    """
    report.videos = len(benchmark.videos)
    report.expressions = sum(len(video.expressions) for video in benchmark.videos)
    files = _files_by_folder(benchmark, report)
    has_masks = _masks_can_be_read(benchmark, report)
    has_foreground = _foreground_is_there(benchmark, report)
    with ThreadPoolExecutor(_READERS) as pool:
        for video in benchmark.videos:
            try:
                _check_list(video, report)
                if benchmark.video_files:
                    size = _check_file(benchmark.folder, video, report)
                else:
                    size = _check_frames(benchmark.folder, video, files.get(video.uri, {}), report, pool)
                if size and video.height and video.width and size != (video.height, video.width):
                    says = f"says {video.width}x{video.height}, is {size[1]}x{size[0]}"
                    report.add("video-size", f"{video.video_id}: {says}")
                _check_expressions(video, report)
                masks = [
                    _check_masks(benchmark, video, expression, size, report)
                    for expression in (video.expressions if has_masks else ())
                ]
                if size is not None:
                    _check_shift(benchmark.folder, video, files.get(video.uri, {}), size, masks, report, pool)
                if has_foreground:
                    _check_foreground(benchmark, video, size, report)
            except Exception as error:  # noqa: BLE001 - an error in one video must not end the check of the others
                report.add("cannot-check", f"{video.video_id}: {type(error).__name__}: {error}")


def _files_by_folder(benchmark: FileBenchmark, report: Report) -> dict[str, dict[str, str]]:
    """Maps folder -> stem -> name of an image file, below the folder of frames."""
    files: dict[str, dict[str, str]] = {}
    try:
        for name in benchmark.folder.list(benchmark.frames_folder):
            path = PurePosixPath(name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                files.setdefault(str(path.parent), {})[path.stem] = name
    except (StorageError, ValueError) as error:
        report.add("cannot-open", f"frames: {error}")
    known = {video.uri for video in benchmark.videos}
    for folder in sorted(files.keys() - known):
        report.add("folder-unlisted", folder)
    return files


def _masks_can_be_read(benchmark: FileBenchmark, report: Report) -> bool:
    if benchmark.truth is None:
        if benchmark.expects_masks:
            report.add("masks-missing", f"{benchmark.name}, split {benchmark.split}")
        return False
    try:
        benchmark.truth.load()
    except (DatasetError, StorageError) as error:
        report.add("masks-missing", str(error))
        return False
    return True


def _foreground_is_there(benchmark: FileBenchmark, report: Report) -> bool:
    if not benchmark.has_foreground:
        if benchmark.expects_foreground:
            report.add("foreground-missing", f"{benchmark.name}, split {benchmark.split}")
        return False
    return True


def _check_list(video: Video, report: Report) -> None:
    """Checks a video's list of frames."""
    name = video.video_id
    if "/" in name:
        report.add("id-slash", f"video {name}")
    if not video.frames:
        report.add("frames-none", name)
    if _order(video.frames) != list(video.frames):
        report.add("frames-order", f"{name}: {', '.join(video.frames[:6])}")
    for frame, count in Counter(video.frames).items():
        if count > 1:
            report.add("frame-twice", f"{name}: {frame}", count - 1)


def _check_file(folder: Folder, video: Video, report: Report) -> Size | None:
    """Checks a video's file; returns the size of its frames."""
    try:
        with (
            fetch_to_local(folder.uri_of(video.uri), tempfile.gettempdir()) as path,
            contextlib.closing(open_video(path)) as opened,
        ):
            frames, size = opened.num_frames, (opened.height, opened.width)
    except (StorageError, InputError) as error:
        report.add("video-file", f"{video.uri}: {error}")
        return None
    if frames != len(video.frames):
        report.add("video-file", f"{video.uri} has {frames} frames, the metadata lists {len(video.frames)}")
    return size


def _check_frames(
    folder: Folder, video: Video, files: Mapping[str, str], report: Report, pool: ThreadPoolExecutor
) -> Size | None:
    """Checks the files of a video's frames; returns the size of the first readable one."""
    name = video.video_id
    listed = set(video.frames)
    for frame in video.frames:
        if frame not in files:
            report.add("frame-missing", f"{video.uri}/{frame}.jpg")
    if unlisted := sorted(files.keys() - listed):
        report.add("frames-unlisted", f"{name}: {len(unlisted)} files, the first {unlisted[0]}", len(unlisted))
    size: Size | None = None
    there = [frame for frame in dict.fromkeys(video.frames) if frame in files]
    for frame, found in zip(there, pool.map(lambda frame: _frame_size(folder, files[frame]), there), strict=True):
        if isinstance(found, str):
            report.add("frame-unreadable", f"{files[frame]}: {found}")
        elif size is None:
            size = found
        elif found != size:
            report.add("frame-size", f"{files[frame]}: {found[1]}x{found[0]}, the first is {size[1]}x{size[0]}")
    return size


def _order(frames: Sequence[str]) -> list[str]:
    numbered = all(frame.isascii() and frame.isdigit() for frame in frames)
    return sorted(frames, key=lambda frame: (int(frame) if numbered else 0, frame))


def _frame_size(folder: Folder, name: str) -> Size | str:
    """The size of an image, or the reason why it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(folder.read_bytes(name)), formats=("JPEG", "PNG")) as image:
            height, width = image.height, image.width
            if height * width > MAX_PIXELS:
                return f"{width}x{height} is more than {MAX_PIXELS:,} pixels"
            image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
            image.load()
            return height, width
    except UnidentifiedImageError:
        return "neither a JPEG nor a PNG image"
    except Exception as error:  # noqa: BLE001 - Pillow raises errors of many types for broken files
        return f"{type(error).__name__}: {error}"


def _check_expressions(video: Video, report: Report) -> None:
    if not video.expressions:
        report.add("expressions-none", video.video_id)
    texts: dict[str, str] = {}
    for expression in video.expressions:
        place = f"{video.video_id}, expression {expression.expression_id}"
        if "/" in expression.expression_id:
            report.add("id-slash", place)
        if not expression.text.strip():
            report.add("text-empty", place)
        elif expression.text in texts:
            report.add("text-twice", f"{place} and {texts[expression.text]}: {expression.text[:80]}")
        texts.setdefault(expression.text, expression.expression_id)


def _check_masks(
    benchmark: FileBenchmark, video: Video, expression: Expression, size: Size | None, report: Report
) -> list[list[Rle]]:
    """Notes every inconsistency of an expression's masks; returns those that can be read, a list for each frame."""
    truth = benchmark.truth
    assert truth is not None
    place = f"{video.video_id}, expression {expression.expression_id}"
    named = truth.count(video, expression)
    if named and expression.kind == "no-target":
        report.add("ids-unexpected", place)
    if not named and expression.kind != "no-target":
        report.add("ids-empty", place)
    if isinstance(truth, MaskDict) and truth.name.endswith(".json") and named != len(expression.object_ids):
        report.add("ids-length", f"{place}: {len(expression.object_ids)} obj_id, {named} anno_id")
    try:
        frames = truth.check(video, expression, report)
    except (DatasetError, StorageError) as error:
        report.add("mask-unreadable", f"{place}: {error}")
        return []
    areas = [[int(area) for area in coco.area(frame)] if frame else [] for frame in frames]
    overlapping = sum(
        len(frame) > 1 and _one_size(frame) and sum(area) > int(coco.area(coco.merge(frame)))
        for frame, area in zip(frames, areas, strict=True)
    )
    if overlapping:
        report.add("mask-overlap", f"{place}, {overlapping} frames", overlapping)
    if named and expression.kind != "no-target" and not any(map(sum, areas)):
        report.add("never-visible", place)
    wrong = {code["size"] for frame in frames for code in frame} - {size}
    if size is not None and wrong:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(wrong))
        report.add("mask-size", f"{place}: {shown}, the frames are {size[1]}x{size[0]}")
    return frames


def _check_shift(
    folder: Folder,
    video: Video,
    files: Mapping[str, str],
    size: Size,
    masks: Sequence[list[list[Rle]]],
    report: Report,
    pool: ThreadPoolExecutor,
) -> None:
    """Notes a video whose masks fit other frames clearly better than their own."""
    first = max(0, (len(video.frames) - _COMPARED_FRAMES) // 2)
    window = range(first, min(first + _COMPARED_FRAMES, len(video.frames)))
    objects: list[list[np.ndarray]] = []
    for frames in masks:
        lines = [_outline(frames[index], size) if index < len(frames) else NOTHING for index in window]
        if any(map(len, lines)) and not any(all(map(np.array_equal, lines, known)) for known in objects):
            objects.append(lines)
    names = [video.frames[index] for index in window]
    if not objects or not all(name in files for name in names):
        return
    pictures = list(pool.map(lambda name: _edges(folder, files[name]), names))
    if any(picture is None or picture.shape != small_size(*size) for picture in pictures):
        return  # noted as unreadable, or as of another size
    shift = better_shift([picture for picture in pictures if picture is not None], objects)
    if shift is not None:
        report.add(
            "mask-shift",
            f"{video.video_id}: masks fit the frames {abs(shift.frames)} {'later' if shift.frames > 0 else 'earlier'}; "
            f"edges under the outlines are {shift.gain:.1f} times as strong there, on {shift.better} of {shift.of} masks",
        )


def _outline(codes: list[Rle], size: Size) -> np.ndarray:
    if not codes or {code["size"] for code in codes} != {size}:
        return NOTHING
    return outline(coco.decode(coco.merge(codes)))


def _edges(folder: Folder, name: str) -> np.ndarray | None:
    """`edges` of an image file; None if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(folder.read_bytes(name)), formats=("JPEG", "PNG")) as image:
            if image.height * image.width > MAX_PIXELS:
                return None
            return edges(np.asarray(image.convert("RGB")))
    except Exception:  # noqa: BLE001 - `_frame_size` has noted why
        return None


def _one_size(codes: list[Rle]) -> bool:
    return len({code["size"] for code in codes}) == 1


def _check_foreground(benchmark: FileBenchmark, video: Video, size: Size | None, report: Report) -> None:
    try:
        frames = benchmark.foreground(video)
    except DatasetError as error:
        report.add("foreground-unusable", str(error))
        return
    wrong = {code["size"] for frame in frames or [] for code in frame} - {size}
    if size is not None and wrong:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(wrong))
        report.add("foreground-unusable", f"{video.video_id}: {shown}, the frames are {size[1]}x{size[0]}")
