"""Shots of a video, found by colour histograms, and frames that stand for them. No network is needed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_BINS = 4  # of each colour channel
_SIDE = 64  # pixels that are looked at along each side of a frame, at most
_SHORTEST = 8  # frames of a shot
# A cut changes at least this share of the pixels' colours, and so many times more than the frames around it do.
_LEAST, _TIMES = 0.3, 3.0
_AROUND = 8  # frames on each side


def histograms(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Colour histograms (n, 64) float32 of frames (H, W, 3) uint8, each with the sum 1."""
    return np.array([_histogram(frame) for frame in frames], np.float32).reshape(-1, _BINS**3)


def _histogram(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    small = frame[:: max(1, height // _SIDE), :: max(1, width // _SIDE)].astype(np.int64) * _BINS // 256
    codes = (small[..., 0] * _BINS + small[..., 1]) * _BINS + small[..., 2]
    return np.bincount(codes.ravel(), minlength=_BINS**3) / codes.size


def shot_starts(histograms: np.ndarray) -> list[int]:
    """The first frame of each shot, from the histograms (T, 64) of all frames.

    A shot begins where the histogram changes by more than `_LEAST` (half the L1 distance to that of the frame before) and by
    more than `_TIMES` the median change of the frames around.
    """
    changes = np.zeros(len(histograms))
    changes[1:] = np.abs(np.diff(histograms, axis=0)).sum(1) / 2
    starts = [0]
    for frame in np.flatnonzero(changes > _LEAST).tolist():
        around = np.r_[changes[max(1, frame - _AROUND) : frame], changes[frame + 1 : frame + 1 + _AROUND]]
        usual = float(np.median(around)) if len(around) else 0.0
        if changes[frame] > _TIMES * usual and frame - starts[-1] >= _SHORTEST:
            starts.append(frame)
    return starts


def frames_of_shots(starts: list[int], total: int, max_frames: int) -> list[int]:
    """min(N, T) frames, ascending: the middles of equal parts of the shots.

    Each shot has at least one frame where there are no more than N shots; the others go where a frame stands for most frames
    (d'Hondt's method). Where there are more shots, the longest have one each, the earlier of equals.
    """
    lengths = np.diff([*starts, total])
    if len(starts) > max_frames:
        longest = sorted(np.argsort(-lengths, kind="stable")[:max_frames].tolist())
        return [int(starts[shot] + lengths[shot] // 2) for shot in longest]
    counts = np.ones(len(starts), np.int64)
    for _ in range(min(max_frames, total) - len(starts)):
        counts[np.where(counts < lengths, lengths / (counts + 1), -1.0).argmax()] += 1
    return [
        int(start + (2 * part + 1) * length // (2 * count))
        for start, length, count in zip(starts, lengths, counts, strict=True)
        for part in range(count)
    ]
