"""Promises of `vrshq report`, on a small run over a demo clip, on disk and in memory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from tests.support.clips import code_frame, h264, image_folder
from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.video.video import Video
from vrshq.pipelines.demo.draw_clips import CLIPS, draw, write_clip
from vrshq.pipelines.drawing import text as texts
from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, overlaid
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.tables.doubt import LOW, SIGNAL
from vrshq.pipelines.label.tables.schema import MASKS, SCHEMA_VERSION, TRACKS
from vrshq.pipelines.report import run as report
from vrshq.pipelines.report import sheets as drawing
from vrshq.pipelines.report import videos
from vrshq.pipelines.report.names import film_name, sheet_name

CLIP = CLIPS[0]
KEYFRAME = 7
EVIL = '<script>alert(1)</script> & "quotes" \x00\x1b \u202e 球 🐘'


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "hide.mp4"
    write_clip(CLIP, path)
    return path


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """The red ball's true masks, (T, H, W) bool."""
    return draw(CLIP)[1]["red ball"]


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "run")
    else:
        uri = f"memory://report-{tmp_path.name}/run"
        yield uri
        for name in Folder(uri).list():
            Folder(uri).remove(name)


def write_run(uri: str, tracks: list[dict[str, Any]], masks: np.ndarray | None = None) -> RunDirectory:
    """Writes a run with the given rows of `tracks/`, whose other columns have defaults, all with the given masks."""
    run = RunDirectory(uri)
    filled = [{"text": "the red ball", "status": "ok", "keyframe_index": KEYFRAME} | track for track in tracks]
    table = pa.Table.from_pylist(
        [{name: row[name] for name in ("video_id", "video_uri", "instruction_id", "text")} for row in filled]
    )
    manifest = build_manifest(table, videos_root=None, base="/", max_instructions_per_unit=2)
    run.write_manifest(manifest)
    for unit in manifest.to_pylist():
        rows = [
            {"num_frames": CLIP.num_frames, "height": CLIP.height, "width": CLIP.width, "presence": 0.9}
            | {"attempts": 1, "schema_version": SCHEMA_VERSION}
            | row
            for row in filled
            if row["video_id"] == unit["video_id"] and row["instruction_id"] in unit["instruction_ids"]
        ]
        answers = [
            {"video_id": row["video_id"], "instruction_id": row["instruction_id"], "frame_index": index}
            | {"object_id": 0}
            | {"height": mask.shape[0], "width": mask.shape[1], "area": int(mask.sum()), "bbox": [0, 0, 0, 0]}
            | {"rle": coco.encode(np.asfortranarray(mask, np.uint8))["counts"], "object_score": 3.0 - index}
            for row in rows
            if row["status"] != "error" and masks is not None
            for index, mask in enumerate(masks)
        ]
        tables = {
            "tracks": pa.Table.from_pylist(rows, schema=TRACKS),
            "masks": pa.Table.from_pylist(answers, schema=MASKS),
        }
        run.commit_unit(unit["unit_id"], tables)
    return run


def image(run: RunDirectory, video_id: str, instruction_id: str) -> Image.Image:
    opened = Image.open(io.BytesIO(run.folder.read_bytes(sheet_name(video_id, instruction_id))))
    opened.load()
    assert opened.format == "PNG"
    return opened


def page(run: RunDirectory) -> str:
    return run.folder.read_bytes("report.html").decode()


def share_of(picture: Image.Image, color: tuple[int, int, int]) -> float:
    """Share of the pixels with nearly this colour."""
    return float((np.abs(np.asarray(picture, int) - color).max(axis=-1) < 30).mean())


def test_a_compacted_run_has_the_same_pictures(place: str, clip: Path, ball: np.ndarray) -> None:
    tracks = [{"video_id": "hide", "video_uri": str(clip), "instruction_id": str(number)} for number in range(3)]
    run = write_run(place, tracks, ball)
    report.write_report(place)
    before = [image(run, "hide", str(number)).tobytes() for number in range(3)]
    units = run.read_manifest()["unit_id"].to_pylist()
    assert run.compact(units, to_the_end=True)["masks"] == (2, 1)
    report.write_report(place)
    assert [image(run, "hide", str(number)).tobytes() for number in range(3)] == before


def test_every_instruction_has_a_sheet_and_a_place_on_the_page(place: str, clip: Path, ball: np.ndarray) -> None:
    tracks: list[dict[str, Any]] = [
        {"video_id": "hide", "video_uri": str(clip), "instruction_id": "0"},
        {"video_id": "hide", "video_uri": str(clip), "instruction_id": "1", "status": "empty", "text": "the elephant"},
        {"video_id": "gone", "video_uri": "/none.mp4", "instruction_id": "0", "status": "error"}
        | {"error_type": "InputError", "error_message": "/none.mp4: no such file", "num_frames": None, "height": None},
    ]
    run = write_run(place, tracks, ball)
    written = report.write_report(place)
    assert written[0] == run.folder.uri_of("report.html")
    assert len(written) == len(set(written)) == 4
    assert {uri.removeprefix(run.uri + "/") for uri in written} <= set(run.folder.list())
    sheet = image(run, "hide", "0")
    # Twelve landscape frames in three rows of four.
    assert sheet.width == 4 * (drawing.LANDSCAPE + drawing.GAP) + drawing.GAP
    assert sheet.height > 3 * 180
    assert share_of(sheet, KEYFRAME_COLOR) > 0.005
    assert image(run, "gone", "0").height < 300
    text = page(run)
    assert text.count("<figure>") == 3
    assert text.count('loading="lazy"') == 2
    assert "InputError" in text
    assert "/none.mp4: no such file" in text
    assert "3 sheets, one for each instruction." in text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    run = write_run(str(tmp_path), [{"video_id": "hide", "video_uri": str(clip), "instruction_id": "0"}], ball)
    first = [Path(path).read_bytes() for path in report.write_report(run.uri)]
    assert first == [Path(path).read_bytes() for path in report.write_report(run.uri)]


def test_text_is_never_html_and_never_a_path(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    ids = ["../../../outside", "a/b", "..", "/etc/x", "CON", "x" * 5000, EVIL]
    tracks: list[dict[str, Any]] = [
        {"video_id": f"../{name}", "video_uri": str(clip), "instruction_id": name, "text": EVIL + "word " * 2000}
        for name in ids
    ]
    tracks += [
        {"video_id": "bad", "video_uri": "/x", "instruction_id": EVIL, "text": EVIL, "status": "error"}
        | {"error_type": EVIL, "error_message": EVIL, "num_frames": None, "notes": EVIL}
    ]
    run = write_run(str(tmp_path / "run"), tracks, ball)
    written = report.write_report(run.uri)
    assert len(written) == len(tracks) + 1
    sheets = [Path(path) for path in written[1:]]
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", path.name) for path in sheets)
    assert {path.parent for path in sheets} == {tmp_path / "run" / "report"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    text = page(run)
    assert "<script" not in text.lower()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in text
    assert "\x00" not in text
    assert max(map(len, text.splitlines())) < 100_000
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert links
    assert all(re.fullmatch(r"report/[0-9a-f]{16}\.png", link) for link in links)


def test_only_the_frames_shown_are_decoded_and_each_video_is_opened_once(
    tmp_path: Path, clip: Path, ball: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks: list[dict[str, Any]] = [
        {"video_id": "hide", "video_uri": str(clip), "instruction_id": str(number), "keyframe_index": number}
        for number in (0, 7, 9)
    ]
    run = write_run(str(tmp_path), tracks, ball)
    asked: list[list[int]] = []
    read = videos._read_frames

    def counted(video: Video, indices: list[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
        asked.append(indices)
        return read(video, indices, size)

    monkeypatch.setattr(videos, "_read_frames", counted)
    report.write_report(run.uri, frames_per_sheet=4)
    assert asked == [[0, 7, 9, 10, 21, 31]]


def test_masks_lie_on_their_own_frames(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    """With one frame per sheet, the keyframe, the pixels inside its mask are coloured and no others."""
    run = write_run(str(tmp_path), [{"video_id": "hide", "video_uri": str(clip), "instruction_id": "0"}], ball)
    bare = write_run(str(tmp_path / "b"), [{"video_id": "hide", "video_uri": str(clip), "instruction_id": "0"}])
    sheets = []
    for one in (run, bare):
        report.write_report(one.uri, frames_per_sheet=1)
        sheets.append(np.asarray(image(one, "hide", "0"), int))
    changed = np.abs(sheets[0] - sheets[1]).max(axis=-1) > 8
    top, left = sheets[0].shape[0] - drawing.GAP - drawing.LABEL - CLIP.height, drawing.GAP
    inside = changed[top : top + CLIP.height, left : left + CLIP.width]  # the clip is drawn at its own size
    mask = ball[KEYFRAME]
    assert (inside & mask).sum() > 0.9 * mask.sum()
    assert (inside & ~mask).sum() < 0.2 * mask.sum()  # the outline is one pixel wide
    assert changed.sum() - inside.sum() < 2000  # the label shows a score instead of "no mask"


def test_a_video_that_is_gone_costs_its_pictures_only(place: str, ball: np.ndarray) -> None:
    run = write_run(place, [{"video_id": "hide", "video_uri": "/none/hide.mp4", "instruction_id": "0"}], ball)
    report.write_report(place)
    assert share_of(image(run, "hide", "0"), (96, 96, 96)) > 0.5


def test_a_broken_mask_costs_its_sheet_only(place: str, clip: Path, ball: np.ndarray) -> None:
    tracks = [{"video_id": name, "video_uri": str(clip), "instruction_id": "0"} for name in ("a", "b")]
    run = write_run(place, tracks, ball)
    part = next(name for name in run.folder.list("masks"))
    run.folder.write_bytes(part, b"PAR1 nothing")
    assert len(report.write_report(place)) == 3
    heights = [image(run, name, "0").height for name in ("a", "b")]
    assert min(heights) < 300
    assert max(heights) > 600


def test_a_large_run_has_a_limited_number_of_sheets_and_the_page_says_so(tmp_path: Path) -> None:
    tracks = [
        {"video_id": f"{number:03}", "video_uri": "/none", "instruction_id": "0", "status": "error", "num_frames": None}
        for number in range(30)
    ]
    run = write_run(str(tmp_path), tracks)
    assert len(report.write_report(run.uri, limit=10)) == 11
    assert "10 sheets, spread evenly over 30 instructions; 20 were left out (--limit)." in page(run)
    shown = re.findall(r"<h2><bdi>(\d+)</bdi>", page(run))
    assert shown == [f"{number:03}" for number in range(0, 30, 3)]


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    tracks = [{"video_id": name, "video_uri": str(clip), "instruction_id": "0"} for name in ("a", "b", "c")]
    run = write_run(str(tmp_path), tracks, ball)
    run.forget(sorted(run.finished_units())[:2])
    assert len(report.write_report(run.uri)) == 2
    assert "<dt>not finished</dt><dd>2</dd>" in page(run)


def test_the_report_can_be_written_to_another_folder(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    run = write_run(str(tmp_path / "run"), [{"video_id": "hide", "video_uri": str(clip), "instruction_id": "0"}], ball)
    before = run.folder.list()
    written = report.write_report(run.uri, str(tmp_path / "out"))
    assert all(Path(path).is_relative_to(tmp_path / "out") for path in written)
    assert run.folder.list() == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))):
        report.write_report(str(tmp_path))


@given(frames=st.integers(1, 5000), count=st.integers(1, 30), data=st.data())
def test_sheets_show_spread_frames_and_always_the_keyframe(frames: int, count: int, data: st.DataObject) -> None:
    keyframe = data.draw(st.none() | st.integers(0, frames - 1))
    chosen = drawing.sheet_frames(range(frames), count, keyframe)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(frames, count)
    assert keyframe is None or keyframe in chosen
    assert 0 <= chosen[0] <= chosen[-1] < frames
    if len(chosen) > 1:
        assert max(np.diff([*chosen])) <= 2 * (frames - 1) / (len(chosen) - 1) + 1


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (1, 4000), (4000, 1), (2160, 3840), (8, 8)])
@pytest.mark.parametrize("text", ["", "word " * 2000, "x" * 10_000, EVIL, "\ud7ff\ue000\U0010ffff", "赤いボール" * 400])
def test_sheets_of_any_shape_and_text_are_drawn(size: tuple[int, int], text: str) -> None:
    height, width = drawing.picture_size(*size)
    assert max(height, width) <= 480
    frames = {index: np.full((height, width, 3), 200, np.uint8) for index in (0, 3, 6)}
    answers = {index: [drawing.Answer(np.ones(size, np.uint8) * (index > 0), 1.0)] * (1 + index) for index in (0, 3)}
    track: dict[str, Any] = {"video_id": text, "instruction_id": text, "text": text, "status": "ok", "presence": None}
    track |= {"keyframe_index": 3, "num_frames": 7, "error_type": None, "error_message": None}
    track |= {"answer": text, "num_objects": 4}
    sheet, repeated = drawing.draw_sheet(track, frames, answers, note=text)
    assert 0 < repeated < sheet.height
    assert 200 < sheet.width < 1600
    assert sheet.height < 2600


def test_text_is_drawn_without_any_font_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "FONTS", ())
    texts._fonts.cache_clear()
    try:
        assert texts.wrapped("the 球\u202e ball", 15, 500, 2) == ["the ? ball"]
    finally:
        monkeypatch.undo()
        texts._fonts.cache_clear()


def test_a_mask_smaller_than_a_pixel_of_the_sheet_is_seen() -> None:
    mask = np.zeros((1440, 2560), np.uint8)
    mask[700, 1200] = 1
    bare = np.full((180, 320, 3), 128, np.uint8)
    assert (overlaid(bare, mask) != bare).any()
    assert (overlaid(bare, np.zeros_like(mask)) == bare).all()


def test_sheets_show_the_frames_that_the_runs_own_settings_read(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "video", ["0.png", "1.png"])
    Image.fromarray(code_frame(2, 48, 80)).save(folder / "2.png")
    track = {"video_id": "v", "video_uri": str(folder), "instruction_id": "0", "keyframe_index": 0}
    track |= {"num_frames": 3, "height": 96, "width": 160}
    shown = {}
    for size_change in ("refuse", "scale"):
        run = RunDirectory(str(tmp_path / size_change))
        run.open({"settings": {"decode": {"size_change": size_change}}}, {})
        write_run(run.uri, [track], np.zeros((3, 96, 160), bool))
        report.write_report(run.uri)
        shown[size_change] = share_of(image(run, "v", "0"), (40, 40, 90))  # the dark blocks of the frames
    assert shown["refuse"] < 0.01
    assert shown["scale"] > 0.2


def test_pixels_that_are_not_square_are_drawn_as_people_see_them(tmp_path: Path) -> None:
    sheets = []
    for name, width, ratio in (("square", 160, None), ("wide", 80, Fraction(2))):
        clip = h264(tmp_path / f"{name}.mp4", frames=3, height=96, width=width, pixel_aspect=ratio)
        track = {"video_id": "v", "video_uri": str(clip), "instruction_id": "0", "keyframe_index": 0}
        track |= {"num_frames": 3, "height": 96, "width": width, "pixel_aspect": float(ratio or 1)}
        masks = np.zeros((3, 96, width), bool)
        masks[:, 24:72, width // 4 : width // 2] = True
        run = write_run(str(tmp_path / name), [track], masks)
        report.write_report(run.uri)
        sheets.append(image(run, "v", "0"))
    square, wide = sheets
    assert wide.size == square.size
    ink, other = (np.asarray(sheet.convert("L"), float) for sheet in sheets)
    assert np.corrcoef(ink.ravel(), other.ravel())[0, 1] > 0.95


def test_a_smaller_limit_removes_the_sheets_that_are_no_longer_shown(place: str, clip: Path, ball: np.ndarray) -> None:
    rows = [{"video_id": "v", "video_uri": str(clip), "instruction_id": str(number)} for number in range(3)]
    run = write_run(place, rows, ball)
    run.folder.write_bytes("report/mine.png", b"not a sheet")
    for limit in (3, 1, 2, 0):
        report.write_report(place, limit=limit, frames_per_sheet=1)
        sheets = set(run.folder.list("report")) - {"report/mine.png"}
        assert len(sheets) == limit
        assert all(name in page(run) for name in sheets)
    assert run.folder.read_bytes("report/mine.png") == b"not a sheet"


def test_videos_that_were_moved_are_shown_from_where_they_lie_now(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    run = write_run(
        str(tmp_path / "run"), [{"video_id": "v", "video_uri": "/old/a/hide.mp4", "instruction_id": "0"}], ball
    )
    report.write_report(run.uri)
    assert "the video cannot be read now" not in page(run)  # the message is on the sheet
    lost = image(run, "v", "0")
    report.write_report(run.uri, videos=str(clip.parent))
    moved = image(run, "v", "0")
    assert share_of(lost, (96, 96, 96)) > 0.2 > share_of(moved, (96, 96, 96))


def test_least_trusted_answers_come_first_and_failed_ones_last(tmp_path: Path, clip: Path, ball: np.ndarray) -> None:
    doubts = {"a": 2.0, "b": None, "c": -3.0, "d": 5.0}
    tracks: list[dict[str, Any]] = [
        {
            "video_id": f"v{place % 2}",
            "video_uri": str(clip),
            "instruction_id": name,
            "text": f"text {name}",
            SIGNAL: value,
        }
        for place, (name, value) in enumerate(doubts.items())
    ]
    broken = {"status": "error", "error_type": "E", "error_message": "m"}
    tracks.append({"video_id": "v0", "video_uri": str(clip), "instruction_id": "e", "text": "text e"} | broken)
    run = write_run(str(tmp_path / "run"), tracks, ball)

    def order() -> str:
        return "".join(re.findall(r"text ([a-e])</p>", page(run)))

    report.write_report(run.uri)
    assert order() == "ace" + "bd"  # by video and instruction, as ever
    assert f"{SIGNAL.replace('_', ' ')} 2.00" not in page(run)
    written = report.write_report(run.uri, sort="least-trusted")
    ranked = sorted("acd", key=lambda name: doubts[name] or 0, reverse=SIGNAL not in LOW)
    assert order() == f"b{''.join(ranked)}e"
    assert f"5 sheets, the least trusted first by {SIGNAL}." in page(run)
    assert f"{SIGNAL.replace('_', ' ')} 2.00" in page(run)
    assert len(written) == 6
    report.write_report(run.uri, sort="least-trusted", limit=2)
    assert order() == f"b{ranked[0]}"
    assert "3 more trusted ones were left out" in page(run)


def test_videos_lie_beside_the_sheets_and_are_linked(place: str, clip: Path, ball: np.ndarray) -> None:
    tracks: list[dict[str, Any]] = [
        {"video_id": "hide", "video_uri": str(clip), "instruction_id": name} for name in ("0", "1")
    ]
    tracks.append({"video_id": "gone", "video_uri": "/no/such.mp4", "instruction_id": "0"})
    run = write_run(place, tracks, ball)
    written = report.write_report(place, films=True)
    names = [film_name("hide", name) for name in ("0", "1")]
    assert [run.folder.uri_of(name) for name in names] == written[-2:]
    assert re.findall(r'<a href="([^"]+)">video</a>', page(run)) == names
    for name in names:
        with av.open(io.BytesIO(run.folder.read_bytes(name)), "r") as container:
            assert len(list(container.decode(video=0))) == CLIP.num_frames
    report.write_report(place)
    assert ">video</a>" not in page(run)
    assert not [name for name in run.folder.list("report") if name.endswith(".mp4")]
