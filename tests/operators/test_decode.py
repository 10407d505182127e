"""Promise 8: the index of a frame is its place in a full sequential decode; and promise 7 for video files and folders."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.clips import (
    GOOD,
    code_frame,
    contract_table,
    encode,
    h264,
    image_folder,
    make_clips,
    read_code,
    remux,
    true_frames,
)
from tests.support.paths import SHARED
from vrshq.operators.batch import InputError, close_videos, new_batch
from vrshq.operators.decode import Decode
from vrshq.operators.video.decord_reader import DecordReader
from vrshq.operators.video.files import DecodeConfig, inspect_video
from vrshq.operators.video.pyav_reader import PyavReader
from vrshq.operators.video.reader import FrameCache, ReaderError
from vrshq.operators.video.video import Video, open_video, probe

NO_CACHE = DecodeConfig(frame_cache_bytes=0)
VIDEOS = SHARED / "videos"
real_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos in {VIDEOS}; set VRSHQ_SHARED")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def clip(clips: dict[str, Path]) -> Path:
    return clips["h264 mp4 b-frames"]


def codes(frames: Iterable[np.ndarray]) -> list[int]:
    return [read_code(frame) for frame in frames]


def error_of(path: Path | str, config: DecodeConfig | None = None) -> str:
    """The message of the InputError that opening and reading everything raises, checked to be one line."""
    with pytest.raises(InputError) as caught, open_video(str(path), config) as video:
        list(video.stream())
    message = str(caught.value)
    assert "\n" not in message
    assert not str(path) or Path(path).name in message
    return message


# The index contract


@pytest.mark.parametrize("kind", GOOD)
def test_frame_index_is_the_place_in_a_sequential_decode(kind: str, clips: dict[str, Path]) -> None:
    truth = true_frames(clips[kind])
    numbers = list(GOOD[kind].numbers)
    assert codes(truth) == numbers
    with open_video(str(clips[kind]), NO_CACHE) as video:
        assert (video.num_frames, video.height, video.width) == (len(truth), *truth[0].shape[:2])
        everything = list(range(len(truth)))
        shuffled = np.random.default_rng(1).permutation(len(truth)).tolist()
        for order in (everything, everything[::-1], shuffled):
            assert codes(video.frames(order)) == [numbers[index] for index in order]
        single = shuffled[:40]
        assert [read_code(video.frames([index])[0]) for index in single] == [numbers[index] for index in single]
        for frame, expected in zip(video.stream(), truth, strict=True):
            difference = frame.astype(int) - expected
            assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("kind", "reader"),
    [
        ("h264 mp4 b-frames", "decord"),
        ("h264 mkv b-frames", "decord"),
        ("h264 mp4 gop 300", "decord"),
        ("vp9 webm", "decord"),
        ("av1 mp4", "decord"),
        ("h264 mp4 open gop", "pyav"),
        ("h264 mp4 edit list", "pyav"),
        ("hevc mp4 open gop", "pyav"),
        ("h264 avi b-frames", "pyav"),
        ("mpeg4 avi b-frames", "pyav"),
        ("h264 ts b-frames", "pyav"),
    ],
)
def test_decord_reads_where_it_is_right_and_pyav_elsewhere(kind: str, reader: str, clips: dict[str, Path]) -> None:
    with open_video(str(clips[kind])) as video:
        assert video.reader == reader, video.reader_reason


def test_table_of_the_index_contract_has_no_wrong_frame(clips: dict[str, Path]) -> None:
    """Shown by `pytest tests/operators/test_decode.py -k table -s`, and by `python -m tests.support.clips`."""
    table = contract_table(clips)
    print("\n" + table)
    column = table.index("wrong")
    assert {line[column:].split()[0] for line in table.splitlines()[1:]} == {"0"}


@settings(deadline=None, max_examples=25, derandomize=True)
@given(indices=st.lists(st.integers(0, 59), max_size=12))
@pytest.mark.parametrize("kind", ["h264 mp4 b-frames", "h264 ts b-frames"])
def test_any_list_of_indices_gives_those_frames_in_that_order(
    kind: str, indices: list[int], clips: dict[str, Path], open_clips: Callable[[Path], Video]
) -> None:
    assert codes(open_clips(clips[kind]).frames(indices)) == indices


@pytest.fixture(scope="module")
def open_clips() -> Callable[[Path], Video]:
    opened: dict[Path, Video] = {}
    return lambda path: opened.setdefault(path, open_video(str(path), NO_CACHE))


def test_indices_outside_the_video_are_refused(clip: Path) -> None:
    with open_video(str(clip)) as video:
        assert video.frames([]).shape == (0, 96, 160, 3)
        for indices in ([-1], [0, 60]):
            with pytest.raises(IndexError, match="frames 0 to 59"):
                video.frames(indices)
    with pytest.raises(ValueError, match="closed"):
        video.frames([0])


def test_stream_of_a_part_yields_that_part(clip: Path) -> None:
    with open_video(str(clip)) as video:
        assert codes(video.stream(20, 25)) == list(range(20, 25))
        assert list(video.stream(5, 5)) == []


def test_probe_tells_size_and_length_without_opening(clips: dict[str, Path]) -> None:
    info = probe(str(clips["h264 mp4 rotated 90"]))
    assert (info.num_frames, info.height, info.width, info.rotation) == (60, 96, 160, 90)
    assert info.codec == "h264"
    assert info.duration_s == pytest.approx(2.4)
    assert probe(str(clips["av1 mp4"])).codec == "av1"
    # packets say which frames an edit list hides
    assert probe(str(clips["h264 mp4 edit list"])).num_frames == 47


def test_decord_failing_in_the_middle_is_replaced_by_pyav(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(str(clip), NO_CACHE) as video:
        assert video.reader == "decord"
        assert codes(video.frames(range(20))) == list(range(20))
        monkeypatch.setattr(DecordReader, "read", fail)
        assert codes(video.frames(range(60))) == list(range(60))
        assert (video.reader, video.reader_reason) == ("pyav", "decord fails: for a test")


def fail(*_: object) -> np.ndarray:
    raise ReaderError("for a test")


def test_a_seek_that_goes_wrong_is_noticed(clips: dict[str, Path]) -> None:
    """PyAV's frames after a seek must be the ones that the full decode saw at these indices."""
    path = clips["h264 avi b-frames"].parent / "h264_ts_b-frames.ts"
    info, packets = inspect_video(path, NO_CACHE)
    reader = PyavReader(path, info, packets, NO_CACHE, FrameCache(0))
    reader._times = [reader._times[-1]] * 60  # every seek goes to the end
    assert [read_code(reader.read(index)) for index in (40, 30, 50, 10)] == [40, 30, 50, 10]
    assert not reader._seekable
    reader.close()


# Work and memory


def test_a_video_that_fits_the_cache_is_decoded_once(clip: Path) -> None:
    with open_video(str(clip)) as video:
        list(video.stream())
        first = video.resized([0, 30, 59], (24, 40))
        assert codes(video.frames([59, 3])) == [59, 3]
        list(video.stream())
        assert (video.decode_passes, video.frames_decoded) == (1, 60)
        assert first.shape == (3, 24, 40, 3)


def test_pyav_decodes_once_too_although_it_counts_the_frames_first(clips: dict[str, Path]) -> None:
    with open_video(str(clips["h264 ts b-frames"])) as video:
        list(video.stream())
        assert codes(video.frames([59, 3])) == [59, 3]
        assert (video.decode_passes, video.frames_decoded) == (1, 60)


def test_beyond_the_cache_frames_are_decoded_again_and_memory_stays_in_the_budget(clip: Path) -> None:
    budget = 10 * 96 * 160 * 3 + 5
    with open_video(str(clip), DecodeConfig(frame_cache_bytes=budget, decord=False)) as video:
        for _ in range(2):
            assert codes(video.stream()) == list(range(60))
            assert sum(frame.nbytes for frame in video._cache._frames.values()) == budget - 5
        # PyAV's first pass counts the frames and fills the cache
        assert (video.decode_passes, video.frames_decoded) == (3, 60 + 2 * 50)


def test_decord_holds_a_few_frames_of_a_video_of_any_length(tmp_path: Path) -> None:
    most = 25 * 96 * 160 * 3  # two groups of pictures and one frame
    for total in (60, 300):
        config = DecodeConfig(frame_cache_bytes=0, decord_bytes=most)
        with open_video(str(h264(tmp_path / "clip.mp4", frames=total)), config) as video:
            reader = video._reader
            assert isinstance(reader, DecordReader)
            for number, frame in enumerate(video.stream()):
                assert read_code(frame) == number
                assert len(reader._held) <= 24
            assert (video.decode_passes, video.frames_decoded) == (1, total)


def test_decord_reads_a_run_once_in_whatever_order_its_frames_are_asked_for(tmp_path: Path) -> None:
    config = DecodeConfig(frame_cache_bytes=0, decord_bytes=12 * 96 * 160 * 3)
    with open_video(str(h264(tmp_path / "clip.mp4", frames=60)), config) as video:
        for index in reversed(range(60)):
            assert codes(video.frames([index])) == [index]
        assert (video.reader, video.decode_passes, video.frames_decoded) == ("decord", 5, 60)


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists() or find_spec("nvidia") is None, reason="no CUDA libraries that could be loaded"
)
def test_decoding_loads_no_cuda_library(clip: Path) -> None:
    code = f"""
import sys
from vrshq.operators.decode import open_video
with open_video({str(clip)!r}) as video:
    print(video.reader, "nvidia" in sys.modules, "/nvidia/" in open("/proc/self/maps").read())
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["decord", "False", "False"]


def test_frames_belong_to_the_caller(clip: Path) -> None:
    with open_video(str(clip)) as video:
        for _ in range(2):
            for frame in video.stream(0, 3):
                frame[:] = 0
            video.frames([0, 1, 2])[:] = 0
        assert codes(video.frames([0, 1, 2])) == [0, 1, 2]


def test_resized_is_pillows_bilinear(clip: Path) -> None:
    with open_video(str(clip)) as video:
        full, small = video.frames([7, 2, 7]), video.resized([7, 2, 7], (48, 64))
        for one, other in zip(full, small, strict=True):
            expected = Image.fromarray(one).resize((64, 48), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(other, np.asarray(expected))


# Input that cannot be used


def test_what_is_not_a_video_is_refused_with_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "0001.txt").touch()
    assert "cannot be opened (No such file" in error_of(tmp_path / "missing.mp4")
    assert "is not a video that can be read" in error_of(tmp_path / "text.mp4")
    assert "zero bytes" in error_of(tmp_path / "zero.mp4")
    assert "no numbered frames" in error_of(tmp_path / "empty")
    assert "no numbered frames" in error_of(tmp_path / "notes")
    assert "not a regular file" in error_of("/dev/zero")
    assert "empty" in error_of("")
    assert "cannot be opened" in error_of("a\0b")


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert "no video stream" in error_of(tmp_path / "sound.mp4")


def test_a_video_without_frames_is_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["h264 mp4 fragments"].read_bytes()
    (tmp_path / "none.mp4").write_bytes(data[: data.index(b"moof") - 4])  # the header alone
    assert "no video frames" in error_of(tmp_path / "none.mp4")
    remux(clips["h264 mp4"], tmp_path / "none.mp4", skip=1000)
    assert "no video stream" in error_of(tmp_path / "none.mp4")


def test_an_unreadable_file_is_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in error_of(clip)


@pytest.mark.parametrize("prefix", ["http://localhost:9/", "file:", "concat:", "data:video/mp4;base64,", "pipe:0"])
def test_a_path_is_never_taken_for_an_address(prefix: str, clip: Path) -> None:
    assert "cannot be opened (No such file" in error_of(f"{prefix}{clip}")


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["hls", "concat", "sdp"],
)
def test_a_playlist_cannot_make_other_files_be_opened(text: str, clips: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text(text.format(clips["h264 ts b-frames"]))
    assert "is not a video that can be read" in error_of(tmp_path / "list.mp4")


def test_limits_are_checked_before_anything_is_decoded(clip: Path) -> None:
    assert "max_frames" in error_of(clip, DecodeConfig(max_frames=59))
    assert "max_pixels" in error_of(clip, DecodeConfig(max_pixels=96 * 160 - 1))
    assert "max_bytes" in error_of(clip, DecodeConfig(max_bytes=clip.stat().st_size - 1))
    with open_video(str(clip), DecodeConfig(max_frames=60, max_pixels=96 * 160)) as video:
        assert video.num_frames == 60


def test_an_absurd_frame_size_in_the_header_is_refused_at_once(tmp_path: Path) -> None:
    raw = encode(tmp_path / "raw.avi", "mpeg4", frames=3).read_bytes()
    header = raw.index(b"strf") + 8  # BITMAPINFOHEADER: its size, then width and height
    raw = raw[: header + 4] + (12000).to_bytes(4, "little") * 2 + raw[header + 12 :]
    (tmp_path / "absurd.avi").write_bytes(raw.replace(b"FMP4", b"DIB "))
    begin = time.perf_counter()
    assert "max_pixels" in error_of(tmp_path / "absurd.avi")
    assert time.perf_counter() - begin < 1


def test_frames_larger_than_their_header_says_are_refused_at_once(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["vp8 webm"].read_bytes()
    start = data.index(b"\x9d\x01\x2a")  # the start code of a VP8 keyframe; width and height follow
    (tmp_path / "absurd.webm").write_bytes(data.replace(data[start : start + 7], b"\x9d\x01\x2a\xff\x3f\xff\x3f"))
    begin = time.perf_counter()
    assert "breaks at frame 0" in error_of(tmp_path / "absurd.webm")
    assert time.perf_counter() - begin < 1


# Broken streams


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", ["h264 mp4", "h264 mkv b-frames", "vp9 webm", "h264 mp4 fragments"])
def test_a_file_that_was_cut_short_is_refused(kind: str, share: float, clips: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / clips[kind].name
    data = clips[kind].read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut short" in error_of(path)


def test_a_file_with_its_header_first_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    data = h264(tmp_path / "whole.mp4", container={"movflags": "faststart"}).read_bytes()
    for size in range(2500, len(data), (len(data) - 2500) // 25):
        (tmp_path / "cut.mp4").write_bytes(data[:size])
        assert "cut short" in error_of(tmp_path / "cut.mp4")


def test_an_avi_that_lost_only_its_index_is_whole(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["mpeg4 avi b-frames"].read_bytes()
    index = data.rindex(b"idx1")
    (tmp_path / "cut.avi").write_bytes(data[:index])
    with open_video(str(tmp_path / "cut.avi")) as video:
        assert codes(video.frames(range(60))) == list(range(60))
    (tmp_path / "cut.avi").write_bytes(data[: data.rindex(b"00dc", 0, index)])
    assert "cut short" in error_of(tmp_path / "cut.avi")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "kind", ["h264 mp4", "h264 mp4 open gop", "hevc mp4 b-frames", "vp9 webm", "mpeg4 avi b-frames", "h264 ts b-frames"]
)
def test_damaged_bytes_give_an_error_or_all_frames(
    kind: str, seed: int, clips: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(clips[kind].read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(len(data) // 3, 2 * len(data) // 3, size=10):
        data[place] = random.integers(256)
    path = tmp_path / clips[kind].name
    path.write_bytes(data)
    for decord in (True, False):
        frames = []
        with contextlib.suppress(InputError), open_video(str(path), DecodeConfig(decord=decord)) as video:
            frames = list(video.stream())
            assert len(frames) == video.num_frames
    if frames:  # what PyAV lets pass is what every decode gives
        assert codes(frames) == codes(true_frames(path))
    assert capfd.readouterr() == ("", "")


def test_names_in_no_known_encoding_do_no_harm(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    assert data.count(b"VideoHandler") == 1
    (tmp_path / "named.mp4").write_bytes(data.replace(b"VideoHandler", b"\xfe\xffdeoHandler"))
    with open_video(str(tmp_path / "named.mp4")) as video:
        assert video.num_frames == 60


# Folders of frames


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["frame_1.jpg", "frame_2.PNG", "frame_10.jpeg", "frame_0011.jpg"])
    (folder / "notes.txt").touch()
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "._frame_3.jpg").touch()
    (folder / "frame_4.jpg").mkdir()
    with open_video(str(folder)) as video:
        assert (video.num_frames, video.height, video.width, video.reader) == (4, 96, 160, "images")
        assert codes(video.frames([3, 1, 0, 2, 2])) == [3, 1, 0, 2, 2]
        assert codes(video.stream()) == [0, 1, 2, 3]
    assert probe(str(folder)).num_frames == 4


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.jpg", "01.png"], "two files for frame 1"),
        (["1.jpg", "2.jpg", "mask_3.png"], "two kinds"),
    ],
)
def test_a_folder_whose_order_is_unclear_is_refused(names: list[str], words: str, tmp_path: Path) -> None:
    assert words in error_of(image_folder(tmp_path / "video", names))


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg"])
    Image.fromarray(code_frame(2, 48, 80)).save(folder / "2.jpg")
    with pytest.raises(InputError, match=r"2\.jpg is 80x48, but 0\.jpg is 160x96"):
        open_video(str(folder))


def test_a_broken_frame_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg", "2.jpg"])
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[:-200])
    with open_video(str(folder)) as video:
        assert codes(video.frames([0, 2])) == [0, 2]
        with pytest.raises(InputError, match=r"1\.jpg, frame 1 of 3, cannot be decoded"):
            video.frames([0, 1])
    (folder / "1.jpg").write_text("not an image")
    with pytest.raises(InputError, match=r"1\.jpg cannot be read as an image"):
        open_video(str(folder))


def test_an_image_in_disguise_or_of_absurd_size_is_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.png"])
    data = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(data[:16] + (12000).to_bytes(4, "big") * 2 + data[24:])
    with pytest.raises(InputError, match=r"0\.png"):
        open_video(str(folder))
    Image.fromarray(code_frame(0)).save(folder / "0.png", format="GIF")
    with pytest.raises(InputError, match="expected JPEG, PNG, WebP, BMP or TIFF"):
        open_video(str(folder))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "0.png")
    with pytest.raises(InputError, match="more than 8 bits"):
        open_video(str(folder))


def test_gray_transparent_and_turned_images_come_out_upright_in_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    picture = Image.fromarray(code_frame(9))
    picture.convert("L").save(folder / "0.png")
    picture.convert("RGBA").save(folder / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "2.jpg", exif=exif)
    with open_video(str(folder)) as video:
        assert (video.height, video.width) == (96, 160)
        assert codes(video.frames([0, 1, 2])) == [9, 9, 9]


def test_limits_hold_for_folders(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.jpg", "1.jpg"])
    for config in (DecodeConfig(max_frames=1), DecodeConfig(max_pixels=100), DecodeConfig(max_bytes=1000)):
        with pytest.raises(InputError, match="above the limit"):
            open_video(str(folder), config)


# The operator


def test_decode_gives_a_bad_video_an_error_and_the_others_their_frames(clip: Path, tmp_path: Path) -> None:
    uris = [str(clip), str(tmp_path / "missing.mp4"), str(clip)]
    units = [
        {"unit_id": str(n), "video_id": uri, "video_uri": uri, "instruction_ids": ["0", "1"], "texts": ["a", "b"]}
        for n, uri in enumerate(uris)
    ]
    batch = Decode()(new_batch(units))
    assert batch["num_frames"] == [60, None, 60]
    assert (batch["height"], batch["width"]) == ([96, None, 96], [160, None, 160])
    assert [error["error_type"] for error in batch["errors"][1]] == ["InputError", "InputError"]
    assert batch["errors"][1][0]["stage"] == "decode"
    assert batch["errors"][0] == [None, None]
    assert codes(batch["video"][2].frames([5])) == [5]
    closed = close_videos(batch)
    assert "video" not in closed
    with pytest.raises(ValueError, match="closed"):
        batch["video"][0].frames([0])


# Real videos


@real_videos
@pytest.mark.parametrize("name", ["short.mp4", "street.mp4"])
def test_real_videos_keep_the_index_contract(name: str) -> None:
    truth = true_frames(VIDEOS / name)
    with open_video(str(VIDEOS / name), NO_CACHE) as video:
        assert video.num_frames == len(truth)
        for index in np.random.default_rng(0).permutation(len(truth))[:12].tolist():
            assert np.abs(video.frames([index])[0].astype(int) - truth[index]).max() <= 3


@real_videos
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_of_real_videos_is_applied(degrees: int) -> None:
    path = VIDEOS / "odd" / f"video_{degrees}.mov"
    truth = true_frames(path)
    with open_video(str(path)) as video:
        assert (video.height, video.width) == ((568, 320) if degrees % 180 else (320, 568))
        for frame, expected in zip(video.stream(), truth, strict=True):
            assert np.abs(frame.astype(int) - expected).max() <= 3


@real_videos
def test_a_real_broken_stream_says_where_it_breaks() -> None:
    assert "breaks at frame 28 of 50" in error_of(VIDEOS / "odd" / "corrupted.mp4")


@real_videos
def test_packets_out_of_order_are_put_in_order() -> None:
    truth = true_frames(VIDEOS / "odd" / "unordered.mov")
    with open_video(str(VIDEOS / "odd" / "unordered.mov")) as video:
        assert np.abs(video.frames(range(4)).astype(int) - np.stack(truth)).max() <= 3


def test_decord_reads_no_video_whose_groups_of_pictures_would_fill_memory(clip: Path) -> None:
    size = 12 * 96 * 160 * 3
    with open_video(str(clip), DecodeConfig(decord_bytes=size)) as video:
        assert video.reader == "decord"
        expected = video.frames(range(60))
    with open_video(str(clip), DecodeConfig(decord_bytes=size - 1)) as video:
        assert (video.reader, video.reader_reason) == ("pyav", "long groups of pictures")
        assert np.abs(video.frames(range(60)).astype(int) - expected).max() <= 3
