"""What the host does with pixels while a GPU waits: inputs of the networks, holes and codes of 16 masks; before and after.

    python -m tests.benchmarks.bench_pixels [--quick] [--clock wall|cpu] [--threads 1]

"Before" is the old way, kept in this file: float32 inputs made on the host, masks transposed by NumPy and encoded whole, holes
found mask by mask from the statistics of all regions. Both ways are called in turn in one process; a row has the medians and
the median of the paired ratios. Results are compared before the clock starts.

The inputs have three rows: what a CPU does to the end; what it does for a device that normalises; what it does for a GPU that
also resizes. The last is the copy of the frame alone. Its further cost, starting the operations on the GPU, is given as their
number, because there is none here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.bench_propagation import arguments, header
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models import preprocess
from vrshq.operators.models.preprocess import (
    CLIP_SCALE,
    IMAGENET_SCALE,
    SAM2_SCALE,
    Pixels,
    Scale,
    clip_pixels,
    resized_there,
    sam2_pixels,
    sam2_size,
    square_pixels,
)
from vrshq.operators.models.resample import Resize

SIZES = {"480p": (480, 854), "1080p": (1080, 1920), "4K": (2160, 3840)}
OBJECTS, LOW, HOLE_AREA = 16, 256, 8
SAM2_SIDE, CLIP_SIDE = 1024, 336
_COLUMNS = ("work", "frame", "before, ms", "after, ms", "before / after")


def normalized(pixels: np.ndarray, scale: Scale) -> np.ndarray:
    """The old way: float32 (3, H, W) on the host."""
    values: np.ndarray = np.asarray(pixels, np.float32)
    if scale.unit != 1:
        values = values / np.float32(scale.unit)
    values = (values - np.array(scale.mean, np.float32)) / np.array(scale.std, np.float32)
    return values.transpose(2, 0, 1)


def old_sam2(frame: np.ndarray) -> Tensor:
    height, width = sam2_size(frame.shape[0], frame.shape[1], SAM2_SIDE)
    result = np.zeros((1, 3, SAM2_SIDE, SAM2_SIDE), np.float32)
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    result[0, :, :height, :width] = normalized(np.asarray(image), SAM2_SCALE)
    return torch.from_numpy(result)


def old_square(frame: np.ndarray) -> Tensor:
    image = Image.fromarray(frame).resize((SAM2_SIDE, SAM2_SIDE), Image.Resampling.BICUBIC)
    result = np.empty((1, 3, SAM2_SIDE, SAM2_SIDE), np.float32)
    result[0] = normalized(np.asarray(image), IMAGENET_SCALE)
    return torch.from_numpy(result)


def old_clip(frame: np.ndarray) -> Tensor:
    height, width = frame.shape[:2]
    short = min(height, width)
    new_height, new_width = int(CLIP_SIDE * height / short), int(CLIP_SIDE * width / short)
    top, left = (new_height - CLIP_SIDE) // 2, (new_width - CLIP_SIDE) // 2
    image = Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC)
    result = np.empty((1, 3, CLIP_SIDE, CLIP_SIDE), np.float32)
    result[0] = normalized(np.asarray(image.crop((left, top, left + CLIP_SIDE, top + CLIP_SIDE))), CLIP_SCALE)
    return torch.from_numpy(result)


def old_codes(masks: np.ndarray) -> list[rle.EncodedMask]:
    codes = coco.encode(np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0)))
    boxes = coco.toBbox(codes).astype(np.int64)
    return [
        rle.EncodedMask(code["counts"], int(area), (int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        for code, area, box in zip(codes, coco.area(codes), boxes, strict=True)
    ]


def old_holes(low_res: Tensor) -> Tensor:
    return torch.stack([_old_holes(one[None])[0] for one in low_res])


def _old_holes(low_res: Tensor) -> Tensor:
    background = (low_res <= 0).to(torch.uint8).cpu().numpy()
    holes = np.zeros(background.shape, dtype=bool)
    for index, image in enumerate(background):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= HOLE_AREA
        small[0] = False
        if count > 1 and small.any():
            holes[index] = small[labels]
    if not holes.any():
        return low_res
    return torch.where(torch.from_numpy(holes), 0.1, low_res)


def picture(height: int, width: int) -> np.ndarray:
    """A frame of smooth colours with some noise."""
    random = np.random.default_rng(height)
    coarse = random.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.asarray(np.clip(smooth + random.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8))


def logits() -> Tensor:
    """Low-resolution logits of 16 objects: ellipses of a tenth to a half of the side, with rough outlines and few holes."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:LOW, :LOW] / LOW
    made = []
    for _ in range(OBJECTS):
        centre, radii = random.uniform(0.2, 0.8, 2), random.uniform(0.05, 0.25, 2)
        ellipse = 1 - ((rows - centre[0]) / radii[0]) ** 2 - ((columns - centre[1]) / radii[1]) ** 2
        rough = cv2.GaussianBlur(random.standard_normal((LOW, LOW)), (0, 0), 2.0)
        made.append(8 * np.clip(ellipse, -2, 1) + 6 * rough)
    return torch.from_numpy(np.stack(made).astype(np.float32))


def main() -> None:
    options = arguments(__doc__)
    cv2.setNumThreads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    pairs = 3 if options.quick else 15
    print(header(options))
    print(f"\nMilliseconds per frame, {OBJECTS} masks, {options.threads} thread, {options.clock} time, {pairs} pairs\n")
    print("| " + " | ".join(_COLUMNS) + " |\n|" + " --- |" * len(_COLUMNS))
    low_res = logits()
    assert torch.equal(old_holes(low_res), fill_holes(low_res, HOLE_AREA))
    row = partial(print_row, clock, pairs)
    row(f"holes of {OBJECTS} masks", "any", partial(old_holes, low_res), partial(fill_holes, low_res, HOLE_AREA))
    for name, (height, width) in SIZES.items():
        frame = picture(height, width)
        inputs: tuple[tuple[str, Callable[[np.ndarray], Tensor], Callable[[np.ndarray], Pixels]], ...] = (
            ("SAM2 input", old_sam2, lambda one: sam2_pixels(one[None], SAM2_SIDE)),
            ("Sa2VA's square input", old_square, lambda one: square_pixels(one[None], SAM2_SIDE)),
            ("CLIP input", old_clip, lambda one: clip_pixels(one[None], CLIP_SIDE)),
        )
        for work, old, new in inputs:
            assert torch.equal(old(frame), new(frame).on("cpu"))
            before = partial(old, frame)
            row(f"{work}, all on the CPU", name, before, partial(_on_the_cpu, new, frame))
            row(f"{work}, normalised on a device", name, before, partial(new, frame))
            row(
                f"{work}, resized and normalised on a GPU (+ {operations(new, frame)} operations)",
                name,
                before,
                partial(copied, frame),
            )
        full = torch.nn.functional.interpolate(low_res[:, None], (height, width), mode="bilinear")[:, 0] > 0
        masks, packed = full.numpy(), rle.packed_changes(full).numpy()
        assert old_codes(masks) == rle.encode(masks) == rle.encode_changes(packed, height, width)
        row(f"codes of {OBJECTS} masks", name, partial(old_codes, masks), partial(rle.encode, masks))
        changes = partial(rle.encode_changes, packed, height, width)
        row(f"codes of {OBJECTS} masks, packed on the device", name, partial(old_codes, masks), changes)


def _on_the_cpu(make: Callable[[np.ndarray], Pixels], frame: np.ndarray) -> Tensor:
    return make(frame).on("cpu")


def copied(frame: np.ndarray) -> Tensor:
    """What the host does for a GPU that resizes, but for page-locked memory."""
    host = torch.empty(frame.shape, dtype=torch.uint8)
    host.numpy()[:] = frame
    return host


def operations(make: Callable[[np.ndarray], Pixels], frame: np.ndarray) -> int:
    """PyTorch's operations from a copied frame to the input, where the device resizes: counted on the CPU."""

    def there(frames: np.ndarray, resize: Resize, device: torch.device) -> Tensor:
        return resized_there(frames, resize, "columns", device)

    with patch.object(preprocess, "_resized", there), _Counter() as counter:
        make(frame).on("cpu")
    return int(counter.count)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def print_row(
    clock: Callable[[], float], pairs: int, work: str, frame: str, old: Callable[[], Any], new: Callable[[], Any]
) -> None:
    """Calls both in turn after one call of each, and prints the row."""
    times: list[tuple[float, float]] = []
    for _ in range(pairs + 1):
        begin = clock()
        old()
        between = clock()
        new()
        times.append((between - begin, clock() - between))
    before, after = (median(column) * 1000 for column in zip(*times[1:], strict=True))
    ratio = median(first / max(second, 1e-9) for first, second in times[1:])
    print(f"| {work} | {frame} | {before:.1f} | {after:.1f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
