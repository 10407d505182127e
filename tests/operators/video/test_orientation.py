"""Display matrices and EXIF orientations: frames come out as players and viewers show them, in either reader."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.clips import h264, image_folder
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import Video, open_video, probe

ONE = 1 << 16
# matrix (a, b, c, d) -> the displayed picture of a stored one
EIGHT: dict[tuple[float, ...], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda stored: stored,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda stored: np.rot90(stored, 2),
    (0, 1, 1, 0): lambda stored: stored.swapaxes(0, 1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, -1, 0): lambda stored: np.rot90(stored, -1),
    (0, -1, -1, 0): lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return h264(tmp_path_factory.mktemp("plain") / "plain.mp4", frames=8)


def with_matrix(source: Path, path: Path, entries: tuple[float, ...]) -> Path:
    """The clip with another display matrix (a, b, c, d) in its track header."""
    data = bytearray(source.read_bytes())
    a, b, c, d = (int(entry * ONE) for entry in entries)
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume, ... then the matrix
    assert np.frombuffer(bytes(data[place : place + 36]), ">i4").tolist() == [ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30]
    data[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    return path


def stored_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("decord", [True, False])
@pytest.mark.parametrize("entries", EIGHT)
def test_each_display_matrix_is_shown_as_players_show_it(
    entries: tuple[float, ...], decord: bool, plain: Path, tmp_path: Path
) -> None:
    path = with_matrix(plain, tmp_path / "turned.mp4", entries)
    expected = np.stack([EIGHT[entries](frame) for frame in stored_frames(plain)])
    info = probe(str(path))
    with open_video(str(path), DecodeConfig(decord=decord)) as video:
        assert (video.height, video.width) == (info.height, info.width) == expected.shape[1:3]
        frames = video.frames(range(8))
    assert np.abs(frames.astype(int) - expected).max() <= 3
    assert info.orientation.mirrored == (entries[0] * entries[3] - entries[1] * entries[2] < 0)


@pytest.mark.parametrize("entries", [(0, 0, 0, 0), (1, 1, -1, 1), (0.8, 0.6, -0.6, 0.8)])
def test_a_matrix_that_is_no_quarter_turn_is_left_out(entries: tuple[float, ...], plain: Path, tmp_path: Path) -> None:
    path = with_matrix(plain, tmp_path / "odd.mp4", entries)
    with open_video(str(path), DecodeConfig(decord=False)) as video:
        np.testing.assert_array_equal(video.frames(range(8)), stored_frames(plain))


def test_a_scaled_and_nearly_parallel_matrix_is_mirrored_too(plain: Path, tmp_path: Path) -> None:
    path = with_matrix(plain, tmp_path / "scaled.mp4", (-2, 0.01, 0.01, 2))
    with open_video(str(path)) as video:
        np.testing.assert_array_equal(video.frames([3])[0], np.fliplr(stored_frames(plain)[3]))


# Images


def open_one(folder: Path, name: str, picture: Image.Image, orientation: object) -> Video:
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(folder / name, exif=exif)
    return open_video(str(folder))


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))


VIEWED = dict(zip(range(1, 9), [0, 1, 3, 2, 4, 6, 7, 5], strict=True))  # EXIF's number -> place in EIGHT


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
@pytest.mark.parametrize("number", VIEWED)
def test_each_exif_orientation_is_shown_as_viewers_show_it(number: int, suffix: str, tmp_path: Path) -> None:
    stored = picture()
    if suffix == ".webp":
        stored = Image.fromarray(np.kron(np.array(stored)[:3, :5], np.ones((8, 8, 1), np.uint8)))
    with open_one(tmp_path / "video", f"0{suffix}", stored, number) as video:
        frame = video.frames([0])[0]
    expected = list(EIGHT.values())[VIEWED[number]](np.array(stored))
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < (12 if suffix == ".webp" else 0.001)


def exif_entry(kind: int, value: bytes) -> bytes:
    """An EXIF block that holds the orientation alone, with a type of TIFF (2: text, 3: short) and four bytes."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4sI", 0x0112, kind, 4 if kind == 2 else 1, value, 0)


@pytest.mark.parametrize(
    "block",
    [
        *[exif_entry(3, struct.pack("<HH", number, 0)) for number in (0, 9, 200)],
        *[exif_entry(2, text) for text in (b"up\0\0", b"6\0\0\0")],
        b"Exif\0\0",
        b"Exif\0\0junkjunkjunk",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_exif_orientation_without_a_meaning_is_ignored(block: bytes, suffix: str, tmp_path: Path) -> None:
    picture().save(tmp_path / f"0{suffix}", exif=block)
    with open_video(str(tmp_path)) as video:
        assert video.frames([0]).shape == (1, 24, 40, 3)


def test_exif_that_follows_the_pixels_of_a_png_turns_it(tmp_path: Path) -> None:
    with open_one(tmp_path / "video", "0.png", picture(), 6) as video:
        assert (video.height, video.width) == (40, 24)
    data = (tmp_path / "video" / "0.png").read_bytes()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    end = len(data) - 12  # IEND
    moved = data[:start] + data[start + len(chunk) : end] + chunk + data[end:]
    (tmp_path / "video" / "0.png").write_bytes(moved)
    with open_video(str(tmp_path / "video")) as video:
        np.testing.assert_array_equal(video.frames([0])[0], np.rot90(np.array(picture()), -1))


def test_opening_a_folder_decodes_no_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder(tmp_path / "video", [f"{number}.png" for number in range(4)])

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    with open_video(str(folder)) as video:
        assert video.num_frames == 4
