"""Folders of frames: each image file has its place by its number, or the folder is refused by the name of one that has none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.clips import code_frame, image_folder, read_code
from vrshq.operators.batch import InputError
from vrshq.operators.video.video import open_video


def error_of(folder: Path) -> str:
    """The message that refuses the folder: one line."""
    with pytest.raises(InputError) as caught:
        open_video(str(folder))
    message = str(caught.value)
    assert message.isprintable()
    assert "video" in message
    return message


def numbers_of(folder: Path) -> list[int]:
    with open_video(str(folder)) as video:
        return [read_code(frame) for frame in video.stream()]


@pytest.mark.parametrize(
    "names",
    [
        ["12.1.jpg", "12.25.jpg", "12.5.jpg", "12.75.jpg", "12.9.jpg"],
        ["0.5.png", "1.0.png", "1.25.png", "10.5.png"],
        ["t12.jpg", "t12.5.jpg", "t13.jpg"],
        ["12,1.jpg", "12,25.jpg", "12,5.jpg"],
        ["frame (1).jpg", "frame (2).jpg", "frame (10).jpg"],
        ["0001_rgb.jpg", "0002_rgb.jpg", "0010_rgb.jpg"],
        ["2024-01-05_clip7_2.jpg", "2024-01-05_clip7_10.jpg"],
        ["2024-01-05.jpg", "2024-01-06.jpg", "2024-01-10.jpg"],
        ["20240105_101112.jpg", "20240105_101113.jpg"],
        ["2024.01.05.jpg", "2024.01.06.jpg"],
        ["frame-8.jpg", "frame-9.jpg", "frame-10.jpg"],
        ["shot.0008.jpg", "shot.0010.jpg"],
        ["7.jpg"],
        ["00000.jpg", "00005.jpg", "00010.jpg"],
    ],
    ids=str,
)
def test_frames_come_in_the_order_of_the_one_number_that_varies(names: list[str], tmp_path: Path) -> None:
    assert numbers_of(image_folder(tmp_path / "video", names)) == list(range(len(names)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["20240105_235959.jpg", "20240106_000000.jpg"], r"named like \*_\*\.jpg, where 2 numbers vary"),
        (["a1_b1.jpg", "a1_b2.jpg", "a2_b1.jpg"], r"named like a\*_b\*\.jpg"),
        (["cover.jpg", "1.jpg", "2.jpg"], r"image without a number, cover\.jpg"),
        (["frame.jpg", "frame (1).jpg", "frame (2).jpg"], r"image without a number, frame\.jpg"),
        (["1.jpg", "2.jpg", "2 (1).jpg"], r"two kinds, 1\.jpg and 2 \(1\)\.jpg"),
        (["1.jpg", "\uff12.jpg", "3.jpg"], "image without a number, \uff12.jpg"),
        (["1.jpg", "2\n.jpg", "3.jpg"], r"two kinds, 1\.jpg and 2\\n\.jpg"),
        (["-1.jpg", "0.jpg", "1.jpg"], r"negative number, -1\.jpg"),
        (["t=-2.jpg", "t=-1.jpg"], r"negative number, t=-1\.jpg"),
        (["1.jpg", "01.jpg"], r"two files for frame 1, 01\.jpg and 1\.jpg"),
        (["1.jpg", "1.png"], r"two files for frame 1, 1\.jpg and 1\.png"),
        (["1.50.jpg", "1.5.jpg"], "order is unclear"),
        (["1.8.jpg", "1.9.jpg", "1.10.jpg"], r"order is unclear, such as 1\.10\.jpg"),
        (["1.5.jpg", "1,5.jpg"], r"two files for frame 1\.5"),
        (["a.jpg", "b.png"], "no numbered frames"),
    ],
    ids=str,
)
def test_a_name_without_a_clear_place_refuses_the_folder(names: list[str], words: str, tmp_path: Path) -> None:
    assert re.search(words, error_of(image_folder(tmp_path / "video", names)))


def test_webp_bmp_and_tiff_are_frames_like_jpeg_and_png(tmp_path: Path) -> None:
    names = ["0.jpg", "1.webp", "2.bmp", "3.tif", "4.TIFF", "5.WEBP", "6.PNG", "7.JPEG", "8.BMP", "9.jpe"]
    assert numbers_of(image_folder(tmp_path / "video", names)) == list(range(10))


def test_the_content_of_an_image_decides_how_it_is_read(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.png"])
    (folder / "1.png").rename(folder / "1.jpg")
    assert numbers_of(folder) == [0, 1]


def test_a_link_to_a_frame_is_a_frame(tmp_path: Path) -> None:
    elsewhere = image_folder(tmp_path / "elsewhere", ["a0.jpg", "a1.jpg"])
    (tmp_path / "video").mkdir()
    for number in range(2):
        (tmp_path / "video" / f"{number}.jpg").symlink_to(elsewhere / f"a{number}.jpg")
    assert numbers_of(tmp_path / "video") == [0, 1]


def test_a_dead_link_refuses_the_folder_and_names_the_file(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "2.jpg"])
    (folder / "1.jpg").symlink_to(folder / "gone")
    assert "1.jpg leads to no file" in error_of(folder)
    (folder / "1.jpg").unlink()
    (folder / "1.jpg").symlink_to(folder / "1.jpg")
    assert "1.jpg leads to no file" in error_of(folder)


@pytest.mark.parametrize("name", ["1.gif", "1.avif", "1.HEIC", "1.jxl", "cover.exr"])
def test_an_image_of_a_kind_that_is_not_read_refuses_the_folder(name: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "2.jpg"])
    (folder / name).write_bytes(b"whatever it holds")
    assert f"{name} is an image of a kind that is not read" in error_of(folder)


@pytest.mark.parametrize("name", ["1.jpg.part", "1", "1.jpg~", "1.dat"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_whose_name_hides_its_kind_refuses_the_folder(name: str, suffix: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", f"1{suffix}", "2.jpg"])
    (folder / f"1{suffix}").rename(folder / name)
    assert name in error_of(folder)


def test_other_files_and_hidden_ones_are_no_frames(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg"])
    for name in (
        "Thumbs.db",
        ".DS_Store",
        "0.txt",
        "0.json",
        "0.jpg.xml",
        "desktop.ini",
        ".1.jpg.swp",
        "._0.jpg",
        "list",
    ):
        (folder / name).write_text("not an image")
    (folder / "old link").symlink_to(folder / "gone")
    (folder / "thumbnails").mkdir()
    Image.fromarray(code_frame(9)).save(folder / ".hidden_7.jpg")
    assert numbers_of(folder) == [0, 1]


def test_a_name_that_is_no_text_refuses_the_folder_in_printable_words(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg"])
    (folder / "1.jpg").rename(str(folder / "1") + "\udcff.jpg")
    assert r"1\udcff.jpg" in error_of(folder)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_a_damaged_frame_is_reported_with_its_name_and_frame(suffix: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", [f"{number:05}{suffix}" for number in range(4)])
    file = folder / f"00002{suffix}"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=rf"00002\{suffix}.*, frame 2 of 4"), open_video(str(folder)) as video:
        video.frames([2])


def test_a_png_with_a_flipped_bit_is_reported_with_its_name_and_frame(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.png", "1.png"])
    data = bytearray((folder / "1.png").read_bytes())
    data[data.index(b"IDAT") + 10] ^= 0x10
    (folder / "1.png").write_bytes(data)
    with open_video(str(folder)) as video, pytest.raises(InputError, match=r"1\.png, frame 1 of 2, cannot be decoded"):
        video.frames([1])


def test_palettes_and_gray_come_out_in_rgb(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    picture = Image.fromarray(code_frame(9))
    picture.quantize(8).save(tmp_path / "video" / "0.bmp")
    picture.convert("L").save(tmp_path / "video" / "1.tif")
    picture.convert("1").save(tmp_path / "video" / "2.png")
    assert numbers_of(tmp_path / "video") == [9, 9, 9]
    with open_video(str(tmp_path / "video")) as video:
        assert video.frames([0]).dtype == np.uint8
