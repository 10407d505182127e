"""The choice of a reader for a video file: decord only where it shows the same frames as PyAV."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np

from vrshq.operators.video.decord_reader import DecordReader, decord_runs
from vrshq.operators.video.files import DecodeConfig, Packets, VideoInfo, open_container
from vrshq.operators.video.indexed_reader import IndexedReader, is_indexable
from vrshq.operators.video.pyav_reader import ONE_FRAME_A_PACKET, PyavReader, upright
from vrshq.operators.video.reader import FrameCache, Reader, ReaderError

TRUSTED_CONTAINERS = ("mov", "matroska")  # decord is silently wrong on AVI and MPEG-TS
CHECKED_HEAD = 6  # frames compared at the start
TOLERANCE = 3  # greatest difference of a channel (0 to 255) between two versions of ffmpeg that show the same frame


def open_reader(
    path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig, cache: FrameCache
) -> tuple[Reader, str]:
    """Decord where it is known to be right, else PyAV, by the index of a long file where that is; and why, in a few words."""
    reason = distrust(info, packets, config)
    if reason is None:
        try:
            reader = DecordReader(path, info, packets, config)
            reason = disagreement(reader, path, packets, config)
            if reason is None:
                return reader, "agrees with PyAV"
            reader.close()
        except ReaderError as error:
            reason = f"decord fails: {error}"
    if is_indexable(info, packets, config):
        try:
            return IndexedReader(path, info, packets, config), f"{reason}; long"
        except ReaderError as error:
            reason = f"{reason}; {error}"
    return PyavReader(path, info, packets, config, cache), reason


def distrust(info: VideoInfo, packets: Packets, config: DecodeConfig) -> str | None:
    """Why decord is not even tried; None where it may be."""
    if not config.decord:
        return "decord is switched off"
    if config.damaged == "keep":  # decord tells of no damage
        return "damaged frames are looked for"
    if not info.container.startswith(TRUSTED_CONTAINERS):
        return f"container {info.container}"
    if info.codec not in ONE_FRAME_A_PACKET:
        return f"codec {info.codec}"
    if info.signal:  # decord gives 8 bits, read as SDR
        return f"{info.signal} signal"
    if info.orientation.mirrored:  # decord reads a turn out of every display matrix
        return "mirrored display matrix"
    if packets.size_may_change:  # decord scales without a word
        return "the frame size may change"
    # decord takes the packet number of a keyframe for its presentation index, and seeks wrong where they differ
    if packets.doubt or packets.open_groups:
        return packets.doubt or "open groups of pictures"
    longest = max(stop - start for start, stop in itertools.pairwise(decord_runs(info, packets, config)))
    return "long groups of pictures" if longest * info.height * info.width * 3 > config.decord_bytes else None


def disagreement(reader: DecordReader, path: Path, packets: Packets, config: DecodeConfig) -> str | None:
    """In what decord differs from PyAV on this file; None where no difference was found.

    Compares the number of frames, all frame times, and the pixels of a few frames: the first ones, and those at the
    last, the middle and the second keyframe, each time as `DecordReader.read` gets at them. Each reader decodes about 25
    frames, whatever the length of the video: 0.2 s for H.264 at 1280x720.
    """
    if reader.num_frames != packets.count:
        return f"decord counts {reader.num_frames} frames, the file has {packets.count}"
    times = reader.start_times()
    expected = (packets.pts - packets.pts[0]) * packets.time_base
    # decord's times are float32
    if not np.allclose(times - times[0], expected, rtol=1e-6, atol=2e-3):
        return "decord's frame times differ from the packets'"
    last = packets.count - 1
    keys = packets.keys
    runs = [
        (key, [key, key + 1, key + 4])
        for key in dict.fromkeys([keys[-1], keys[len(keys) // 2], keys[0]] if keys else [])
    ]
    runs.append((0, [0, 1, CHECKED_HEAD - 1]))
    for start, wanted in runs:
        inside = sorted({index for index in wanted if index <= last})
        truth = _decode_run(path, packets, config, start, inside)
        if truth is None:
            return "PyAV finds other frames than the packets announce"
        frames = reader.decode(start, inside[-1] + 1)
        for index in inside:
            frame = frames[index - start]
            if frame.shape != truth[index].shape:
                return f"decord gives frame {index} the shape {frame.shape}, not {truth[index].shape}"
            if (np.maximum(frame, truth[index]) - np.minimum(frame, truth[index])).max() > TOLERANCE:
                return f"decord shows other pixels at frame {index}"
    return None


def _decode_run(
    path: Path, packets: Packets, config: DecodeConfig, start: int, wanted: list[int]
) -> dict[int, np.ndarray] | None:
    """The wanted frames by PyAV, decoded from the keyframe at or before frame `start`; None where that fails.

    An index is only believed where the frame bears the time that the packets give it, so that a wrong seek cannot pass
    for the truth.
    """
    found: dict[int, np.ndarray] = {}
    container, stream = open_container(path, config)
    with container:
        try:
            if start:
                container.seek(int(packets.pts[start]), stream=stream)
            index = 0 if start == 0 else None
            for frame in container.decode(stream):
                if frame.pts is None:
                    return None
                if index is None:
                    index = int(np.searchsorted(packets.pts, frame.pts))
                if index > wanted[-1] or frame.pts != packets.pts[index]:
                    return None
                if index in wanted:
                    found[index] = upright(frame.reformat(format="rgb24"), frame)
                if index == wanted[-1]:
                    return found if len(found) == len(wanted) else None
                index += 1
        except (av.FFmpegError, MemoryError):
            return None
    return None
