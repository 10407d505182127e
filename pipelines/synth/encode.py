"""Frames as JPEG and mp4 files with reproducible bytes, and checksums of a video before compression."""

from __future__ import annotations

import hashlib
import io

import av
import cv2
import numpy as np

from vrshq.operators.synth import SynthVideo
from vrshq.pipelines.synth.files import JSON

FRAMES_PER_SECOND = 10
JPEG_QUALITY = 95
# Constant quality with little loss. One thread, because the bytes depend on the number of threads. No macroblock tree, because
# x264 then reads memory that it has not written, so the bytes depend on earlier work of the process (x264 in PyAV 18.1).
H264 = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG, its colours at full resolution."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
    assert done
    return bytes(data)


def encode_mp4(frames: np.ndarray) -> bytes:
    """Frames (T, H, W, 3) uint8 RGB, of even height and width, as H.264 in an mp4 file; the same bytes each time."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=H264)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def content_checksums(video: SynthVideo) -> dict[str, str]:
    """SHA-256 of a video's frames, masks and texts, before anything is compressed."""
    texts = [[e.text, e.kind, e.subtype, e.wording, e.object_ids] for e in video.expressions]
    return {
        "frames": hashlib.sha256(str(video.frames.shape).encode() + video.frames.tobytes()).hexdigest(),
        "masks": hashlib.sha256(str(video.masks.shape).encode() + np.packbits(video.masks).tobytes()).hexdigest(),
        "texts": hashlib.sha256(JSON.encode(texts).encode()).hexdigest(),
    }
