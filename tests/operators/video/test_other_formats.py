"""GIF, APNG, animated WebP, Y4M, MXF and DV are read like any video; what cannot be read is refused with the true reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.clips import code_frame, encode, h264, read_code
from vrshq.operators.batch import InputError
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video, probe

KEEP = DecodeConfig(damaged="keep")
PILLOW = (".gif", ".png", ".webp")


def animation(path: Path, *, default_image: bool = False) -> Path:
    pictures = [Image.fromarray(code_frame(number)) for number in range(12)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, default_image=default_image)
    return path


def webp_of(pictures: list[Image.Image], path: Path) -> None:
    """An animated WebP of whole frames with transparency, which Pillow writes for single pictures only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)

    size = b"".join((side - 1).to_bytes(3, "little") for side in pictures[0].size)
    chunks = [chunk(b"VP8X", b"\x12\0\0\0" + size), chunk(b"ANIM", bytes(6))]
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", lossless=True)
        place = buffer.getvalue().index(b"VP8L")
        still = buffer.getvalue()[place:]
        chunks.append(chunk(b"ANMF", bytes(6) + size + b"\x28\0\0\x02" + still))
    body = b"WEBP" + b"".join(chunks)
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)


def dv(path: Path) -> Path:
    with av.open(str(path), "w", format="dv") as output:
        stream = output.add_stream("dvvideo", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 576, 720, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(code_frame(number, 576, 720), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


# suffix -> (how it is written, number of frames, container's name, where a cut at 60 % ends)
KINDS: dict[str, tuple[Callable[[Path], Path], int, str, int]] = {
    ".gif": (animation, 12, "gif", 7),
    ".png": (animation, 12, "apng", 7),
    ".webp": (animation, 12, "webp", 7),
    ".y4m": (lambda path: encode(path, "rawvideo", frames=12), 12, "yuv4mpegpipe", 7),
    ".mxf": (lambda path: encode(path, "mpeg2video", frames=30, bf=2), 30, "mxf", 18),
    ".dv": (dv, 6, "dv", 4),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("formats")
    return {suffix: make(folder / f"clip{suffix}") for suffix, (make, *_) in KINDS.items()}


def codes(path: Path, config: DecodeConfig | None = None) -> list[int]:
    with open_video(str(path), config) as video:
        frames = [read_code(frame) for frame in video.stream()]
        assert len(frames) == video.num_frames
        return frames


@pytest.mark.parametrize("suffix", KINDS)
def test_each_format_is_read_frame_by_frame_in_any_order(suffix: str, files: dict[str, Path]) -> None:
    _, count, container, _ = KINDS[suffix]
    info = probe(str(files[suffix]))
    assert (info.num_frames, info.container) == (count, container)
    with open_video(str(files[suffix]), DecodeConfig(frame_cache_bytes=0)) as video:
        assert (video.num_frames, video.height, video.width) == (count, info.height, info.width)
        assert video.note is None
        order = [*range(count), *reversed(range(count)), count - 1, 0]
        assert [read_code(video.frames([index])[0]) for index in order] == order
    assert codes(files[suffix], KEEP) == list(range(count))


@pytest.mark.parametrize("suffix", KINDS)
def test_the_content_decides_and_not_the_suffix(suffix: str, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(files[suffix].read_bytes())
    assert codes(tmp_path / "clip.mp4") == list(range(KINDS[suffix][1]))


def test_an_mp4_is_read_under_the_name_of_a_gif(tmp_path: Path) -> None:
    h264(tmp_path / "clip.mp4", frames=6).rename(tmp_path / "clip.gif")
    assert codes(tmp_path / "clip.gif") == list(range(6))


@pytest.mark.parametrize("suffix", KINDS)
def test_what_was_cut_short_is_refused_or_kept_up_to_there(suffix: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    data = files[suffix].read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(InputError, match="is cut short after about"):
        open_video(str(path))
    with open_video(str(path), KEEP) as video:
        assert KINDS[suffix][3] - 2 <= video.num_frames <= KINDS[suffix][3] + 1
        sound = video.num_frames - 2
        assert [read_code(frame) for frame in video.frames(range(sound))] == list(range(sound))
        assert video.note is not None
        assert video.note.startswith("damaged stream: ")


def test_an_apng_tells_how_many_frames_are_lost(files: dict[str, Path], tmp_path: Path) -> None:
    data = files[".png"].read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with open_video(str(tmp_path / "cut.png"), KEEP) as video:
        lost = 12 - video.num_frames
        assert video.note == f"damaged stream: {lost} of 12 frames lost at the end"


@pytest.mark.parametrize("suffix", PILLOW)
def test_transparency_lies_on_white(suffix: str, tmp_path: Path) -> None:
    pictures, expected = [], []
    for number in range(4):
        pixels = np.zeros((24, 40, 4), np.uint8)
        pixels[4:12, 6 * number : 6 * number + 8] = (200, 0, 0, 255)
        pictures.append(Image.fromarray(pixels))
        expected.append(np.where(pixels[..., 3:] == 255, pixels[..., :3], 255))
    path = tmp_path / f"clip{suffix}"
    if suffix == ".webp":
        webp_of(pictures, path)
    else:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, disposal=2)
    with open_video(str(path)) as video:
        for index in (0, 3, 1, 2):
            assert np.abs(video.frames([index])[0].astype(int) - expected[index]).max() <= 3


def test_the_picture_that_stands_in_for_an_apng_is_no_frame(tmp_path: Path) -> None:
    assert codes(animation(tmp_path / "clip.png", default_image=True)) == list(range(1, 12))


def test_a_gif_of_one_frame_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(code_frame(5)).save(tmp_path / "one.gif")
    assert codes(tmp_path / "one.gif") == [5]


@pytest.mark.parametrize("name", ["one.png", "one.webp", "one.jpg", "one.tif", "one.bmp"])
def test_a_picture_is_refused_as_a_picture(name: str, tmp_path: Path) -> None:
    Image.fromarray(code_frame(5)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"is a picture \(\w+\), not a video; .* put them into a folder"):
        open_video(str(tmp_path / name))


@pytest.mark.parametrize("suffix", PILLOW)
def test_limits_hold_before_anything_is_decoded(
    suffix: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    for config in (DecodeConfig(max_frames=11), DecodeConfig(max_pixels=100)):
        with pytest.raises(InputError, match="above the limit"):
            open_video(str(files[suffix]), config)


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_damaged_data_name_the_frame_or_keep_the_frames_before(
    suffix: str, files: dict[str, Path], tmp_path: Path
) -> None:
    data = bytearray(files[suffix].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=path.name):
        codes(path)
    kept = codes(path, KEEP)
    assert 3 <= len(kept) <= 8
    assert kept == list(range(len(kept)))


def test_a_webp_that_libwebp_refuses_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(files[".webp"].read_bytes())
    start = data.rindex(b"ANMF")
    data[start + 8 : start + 40] = bytes(32)
    (tmp_path / "damaged.webp").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.webp (cannot be read|breaks at frame)"):
        codes(tmp_path / "damaged.webp")
