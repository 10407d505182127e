"""Videos whose frame size changes: refused with the frame where it happens, or scaled to the first size with a note."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.clips import code_frame, encode, h264, image_folder, read_code
from vrshq.operators.batch import InputError
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.size_hints import SizeHints
from vrshq.operators.video.video import open_video

SCALE = DecodeConfig(size_change="scale")


def joined(parts: Sequence[Path], path: Path) -> Path:
    """One stream of the packets of several clips of 8 frames each, one after the other."""
    with av.open(str(path), "w") as output, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(av.open(str(part))) for part in parts]
        stream = output.add_stream_from_template(readers[0].streams.video[0])
        for number, reader in enumerate(readers):
            for packet in reader.demux(video=0):
                if packet.dts is not None and packet.pts is not None:
                    shift = int(number * 8 / 25 / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)
    return path


@pytest.fixture(scope="module", params=[".ts", ".mkv"])
def changing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 frames of 160x96, 8 of 320x192 and 8 of 160x96; each part counts from 0."""
    folder = tmp_path_factory.mktemp("sizes")
    sizes = enumerate([(96, 160), (192, 320), (96, 160)])
    parts = [h264(folder / f"{number}.ts", frames=8, height=height, width=width) for number, (height, width) in sizes]
    return joined(parts, folder / f"sizes{request.param}")


def test_a_change_of_size_is_refused_with_the_frame_where_it_happens(changing: Path) -> None:
    with pytest.raises(InputError, match=r"changes its frame size to 320x192 in the middle, at frame 8; .*size_change"):
        open_video(str(changing))


def test_a_change_of_size_is_scaled_to_the_first_size_with_a_note(changing: Path) -> None:
    for cache in (2**20, 0):
        config = DecodeConfig(size_change="scale", frame_cache_bytes=cache)
        with open_video(str(changing), config) as video:
            frames = video.frames(range(24))
            assert [read_code(frame) for frame in frames] == list(range(8)) * 3
            assert frames.shape == (24, 96, 160, 3)
            assert video.note == (
                "the frame size changes to 320x192 at frame 8, to 160x96 at frame 16; frames are scaled to 160x96"
            )


def test_a_video_of_one_size_is_the_same_with_either_setting(tmp_path: Path) -> None:
    path = str(h264(tmp_path / "clip.mp4", frames=12))
    with open_video(path) as one, open_video(path, SCALE) as other:
        np.testing.assert_array_equal(one.frames(range(12)), other.frames(range(12)))
        assert (one.note, other.note) == (None, None)


def test_images_of_other_sizes_are_scaled_to_the_first_one_with_a_note(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg"])
    Image.fromarray(code_frame(2, 48, 80)).save(folder / "2.jpg")
    with pytest.raises(InputError, match=r"2\.jpg is 80x48, but 0\.jpg is 160x96; .*decode\.size_change"):
        open_video(str(folder))
    with open_video(str(folder), SCALE) as video:
        assert [read_code(frame) for frame in video.stream()] == [0, 1, 2]
        assert video.note == "the frame size changes to 80x48 at frame 2; frames are scaled to 160x96"


def vp9(path: Path, **options: Any) -> Path:
    return encode(path.with_suffix(".webm"), "libvpx-vp9", deadline="realtime", **options)


@pytest.mark.parametrize(("make", "suffix"), [(h264, ".mp4"), (h264, ".mkv"), (vp9, ".webm")])
def test_a_change_inside_a_long_video_is_found_although_its_ends_agree(
    make: Callable[..., Path], suffix: str, tmp_path: Path
) -> None:
    usual = make(tmp_path / "usual.ts", frames=8)
    other = make(tmp_path / "other.ts", frames=8, height=192, width=320)
    path = joined([usual] * 3 + [other] + [usual] * 8, tmp_path / f"sizes{suffix}")
    with pytest.raises(InputError, match=r"to 320x192 in the middle, at frame 24"):
        open_video(str(path))
    with open_video(str(path), SCALE) as video:
        assert [read_code(frame) for frame in video.stream()] == list(range(8)) * 12
        assert video.note is not None


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "mpeg4"])
def test_random_bytes_are_no_hint_that_ends_badly(codec: str) -> None:
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 16, 300):
        for _ in range(50):
            hints = SizeHints(codec, random.bytes(size))
            packet = av.Packet(random.bytes(size))
            packet.is_keyframe = True
            hints.add(packet)
            assert not hints.varies or codec in ("h264", "hevc", "vp9", "av1")
