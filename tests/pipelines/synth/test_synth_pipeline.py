"""Promises of `vrshq synth`: the same bytes from every way to run it, in a layout that all readers accept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.label_runs import vrshq
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks.rle import decode
from vrshq.operators.synth import SPLITS, SynthConfig, make_video
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.datasets import Folders, check_benchmark, open_benchmark
from vrshq.pipelines.label.asked.instructions import read_instructions
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.synth.encode import content_checksums, encode_mp4
from vrshq.pipelines.synth.run import Synthesised, synth
from vrshq.pipelines.synth.settings import Where, load_config, run_settings

CONFIG = SynthConfig(frames=(8, 10), short_sides=(64, 96), expressions=2)
VIDEOS = 12
HERE = Where(use_ray=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Synthesised]:
    """Videos of every split, made by the for-loop."""
    folder = tmp_path_factory.mktemp("synth") / "loop"
    return folder, synth(str(folder), videos=VIDEOS, seed=4, config=CONFIG, where=HERE)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.ray
def test_ray_writes_the_same_bytes_as_the_loop(made: tuple[Path, Synthesised], tmp_path: Path, workers: int) -> None:
    seen: list[str] = []
    output = tmp_path / "ray"
    done = synth(str(output), videos=VIDEOS, seed=4, config=CONFIG, where=Where(workers=workers), on_video=seen.append)
    assert done == made[1]
    assert digests(output) == digests(made[0])
    assert len(seen) == VIDEOS


def test_another_seed_gives_another_checksum(made: tuple[Path, Synthesised], tmp_path: Path) -> None:
    one = synth(str(tmp_path / "a"), videos=1, seed=5, split="train", config=CONFIG, where=HERE, form="jpeg")
    again = synth(str(tmp_path / "b"), videos=1, seed=5, split="train", config=CONFIG, where=HERE, form="jpeg")
    other = synth(str(tmp_path / "c"), videos=1, seed=6, split="train", config=CONFIG, where=HERE, form="jpeg")
    assert one.checksum == again.checksum
    assert len({one.checksum, other.checksum, made[1].checksum}) == 3


def test_more_videos_continue_what_fewer_began(made: tuple[Path, Synthesised], tmp_path: Path) -> None:
    synth(str(tmp_path / "few"), videos=2, seed=4, split="train", config=CONFIG, where=HERE)
    few, many = (read(folder / "synth.json")["checksums"] for folder in (tmp_path / "few", made[0]))
    assert set(few) == {"train_000000", "train_000001"}
    assert all(many[name] == checksums for name, checksums in few.items())


@pytest.mark.parametrize("form", ["mp4", "both"])
def test_a_set_grows_to_the_bytes_of_one_made_at_once_and_makes_only_the_new_videos(form: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 4, "config": CONFIG, "where": HERE, "form": form}
    made_now: list[str] = []
    synth(str(tmp_path / "grown"), videos=2, **options)
    few = digests(tmp_path / "grown")
    synth(str(tmp_path / "grown"), videos=9, on_video=made_now.append, **options)
    assert made_now == [*(f"train_{number:06d}" for number in range(2, 7)), "valid_000000", "test_000000"]
    synth(str(tmp_path / "once"), videos=9, **options)
    assert digests(tmp_path / "grown") == digests(tmp_path / "once")
    assert few.items() - digests(tmp_path / "once").items() <= {(name, few[name]) for name in few if "/" not in name}
    with pytest.raises(SettingsError, match="videos is"):
        synth(str(tmp_path / "grown"), videos=8, **options)


def test_an_interrupted_growth_continues(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 4, "split": "valid", "config": CONFIG, "where": HERE, "form": "mp4"}

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    synth(str(tmp_path / "grown"), videos=1, **options)
    with pytest.raises(KeyboardInterrupt):
        synth(str(tmp_path / "grown"), videos=3, on_video=stop, **options)
    made_now: list[str] = []
    synth(str(tmp_path / "grown"), videos=4, on_video=made_now.append, **options)
    assert made_now == ["valid_000002", "valid_000003"]
    synth(str(tmp_path / "once"), videos=4, **options)
    assert digests(tmp_path / "grown") == digests(tmp_path / "once")


@pytest.mark.parametrize("videos", [1, 7, 10, 19, 95])
def test_no_split_shrinks_when_a_set_grows(videos: int) -> None:
    few, more = (run_settings(count, 0, None, "jpeg", CONFIG)["videos"] for count in (videos, videos + 1))
    assert sum(few.values()) == videos
    assert sum(more.values()) == videos + 1
    assert all(more[split] >= count for split, count in few.items())


def test_the_splits_share_the_videos(made: tuple[Path, Synthesised]) -> None:
    assert made[1].videos == {"train": 9, "valid": 1, "test": 1, "test_unseen": 1}
    about = read(made[0] / "synth.json")
    assert about["videos"] == made[1].videos
    assert about["checksum"] == made[1].checksum
    assert about["seed"] == 4
    assert about["config"] == json.loads(json.dumps(asdict(CONFIG)))


@pytest.mark.parametrize("split", SPLITS)
def test_the_revos_reader_gives_back_the_masks_that_were_made(made: tuple[Path, Synthesised], split: str) -> None:
    folders = Folders(metadata=f"meta_expressions_{split}_.json")
    benchmark = open_benchmark("revos", str(made[0]), folders=folders)
    assert benchmark.has_masks
    assert len(benchmark.videos) == made[1].videos[split]
    for index, listed in enumerate(benchmark.videos):
        video = make_video(4, index, split, CONFIG)
        assert listed.video_id == video.video_id
        assert (len(listed.frames), listed.height, listed.width) == video.frames.shape[:3]
        for expression, truth in zip(listed.expressions, video.expressions, strict=True):
            assert expression.text == truth.text
            assert (expression.kind == "no-target") == (truth.kind == "absent")
            got = np.zeros(video.frames.shape[:3], bool)
            for frame, codes in enumerate(benchmark.masks(listed, expression)):
                for code in codes:
                    got[frame] |= decode(code["counts"], *code["size"]).astype(bool)
            assert np.array_equal(got, video.truth(truth))
        foreground = benchmark.foreground(listed)
        assert foreground is not None
        union = np.stack([decode(codes[0]["counts"], *codes[0]["size"]) for codes in foreground])
        assert np.array_equal(union.astype(bool), video.masks.any(axis=0))


def test_the_validator_finds_no_error(made: tuple[Path, Synthesised]) -> None:
    for split in ("train", "valid"):
        report = check_benchmark("revos", str(made[0]), split=split)
        assert [problem for problem in report.problems if problem.severity != "note"] == []


def test_frames_on_disk_are_the_frames_that_were_made(made: tuple[Path, Synthesised]) -> None:
    video = make_video(4, 0, "train", CONFIG)
    folder = made[0] / "JPEGImages" / video.video_id
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:05d}.jpg" for n in range(len(video.frames))]
    stored = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    assert stored.shape == video.frames.shape
    assert np.abs(stored.astype(int) - video.frames).mean() < 3
    with open_video(str(made[0] / "videos" / f"{video.video_id}.mp4"), DecodeConfig()) as opened:
        assert opened.num_frames == len(video.frames)
        shown = opened.frames(list(range(opened.num_frames)))
    assert shown.shape == video.frames.shape
    assert np.abs(shown.astype(int) - video.frames).mean() < 6
    checksums = read(made[0] / "synth.json")["checksums"][video.video_id]
    assert content_checksums(video).items() <= checksums.items()


def test_the_instruction_tables_are_ready_for_labelling(made: tuple[Path, Synthesised]) -> None:
    for split, count in made[1].videos.items():
        table = read_instructions(str(made[0] / f"instructions_{split}.jsonl"))
        manifest = build_manifest(table, videos_root=None, base=str(made[0]), max_instructions_per_unit=64)
        assert manifest.num_rows == count
        assert all(Path(uri).is_file() for uri in manifest["video_uri"].to_pylist())
        metadata = read(made[0] / f"meta_expressions_{split}_.json")["videos"]
        for row in table.to_pylist():
            assert metadata[row["video_id"]]["expressions"][row["instruction_id"]]["exp"] == row["text"]


def test_annotation_and_object_numbers_agree_across_the_tables(made: tuple[Path, Synthesised]) -> None:
    masks, objects = read(made[0] / "mask_dict.json"), read(made[0] / "objects.json")
    assert len(masks) == sum(len(entry["objects"]) for entry in objects.values())
    owners: dict[int, tuple[str, int]] = {}
    for split in SPLITS:
        for name, entry in read(made[0] / f"meta_expressions_{split}_.json")["videos"].items():
            for e in entry["expressions"].values():
                assert len(e["obj_id"]) == len(e["anno_id"])
                assert (e["type_id"] == 2) == (e["kind"] == "absent") == (e["obj_id"] == [])
                for number, annotation in zip(e["obj_id"], e["anno_id"], strict=True):
                    assert owners.setdefault(annotation, (name, number)) == (name, number)
                    codes = masks[str(annotation)]
                    areas = [decode(c["counts"].encode(), *c["size"]).sum() if c else 0 for c in codes]
                    assert areas == objects[name]["objects"][number]["mask_area"]


@pytest.mark.parametrize(
    ("form", "there", "missing"), [("jpeg", "JPEGImages", "videos"), ("mp4", "videos", "JPEGImages")]
)
def test_only_the_asked_form_is_written(tmp_path: Path, form: str, there: str, missing: str) -> None:
    synth(str(tmp_path / "out"), videos=1, seed=0, split="test", config=CONFIG, where=HERE, form=form)
    assert (tmp_path / "out" / there).is_dir()
    assert not (tmp_path / "out" / missing).exists()
    row = json.loads((tmp_path / "out" / "instructions_test.jsonl").read_text().splitlines()[0])
    assert (tmp_path / "out" / row["video_uri"]).exists()


def test_an_mp4_has_the_same_bytes_whatever_lay_in_memory_before() -> None:
    random = np.random.default_rng(0)
    for index in range(8):
        frames = make_video(4, index, "train", CONFIG).frames
        seen = set()
        for _ in range(10):
            # freed at once, so that the encoder gets memory with noise in it
            blocks = [random.integers(0, 256, size, dtype=np.uint8) for size in random.integers(64, 200_000, 60)]
            del blocks
            seen.add(hashlib.sha256(encode_mp4(frames)).hexdigest())
        assert len(seen) == 1, frames.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"videos": 0}, "--videos 0: expected 1 or more"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
        ({"split": "dev"}, "--split dev: expected one of train, valid, test, test_unseen"),
        ({"form": "png"}, "--format png: expected jpeg, mp4 or both"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        synth(str(tmp_path / "out"), **{"videos": 1, "seed": 0, "where": HERE, **arguments})
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


class StoppedError(Exception):
    """Ends a run from inside its process."""


def stop_after(count: int) -> Callable[[str], None]:
    """A callback for `on_video` that ends a run after `count` videos."""
    seen: list[str] = []

    def on_video(name: str) -> None:
        seen.append(name)
        if len(seen) == count:
            raise StoppedError

    return on_video


@pytest.mark.parametrize("count", [1, 7, VIDEOS])
def test_a_run_that_was_stopped_continues_to_the_same_bytes(
    made: tuple[Path, Synthesised], tmp_path: Path, count: int
) -> None:
    output, again = tmp_path / "out", list[str]()
    with pytest.raises(StoppedError):
        synth(str(output), videos=VIDEOS, seed=4, config=CONFIG, where=HERE, on_video=stop_after(count))
    partial = output / "JPEGImages/test_unseen_000000/00000.jpg"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"of a video that is not whole, unless all were")
    if count == VIDEOS:
        partial.write_bytes((made[0] / "JPEGImages/test_unseen_000000/00000.jpg").read_bytes())
    done = synth(str(output), videos=VIDEOS, seed=4, config=CONFIG, where=HERE, on_video=again.append)
    assert done == made[1]
    assert digests(output) == digests(made[0])
    assert len(again) == VIDEOS - count
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in made[0].iterdir())


def test_a_run_into_a_bucket_continues_too(made: tuple[Path, Synthesised]) -> None:
    bucket = Folder("memory://synth-continued")
    arguments: dict[str, Any] = {"videos": VIDEOS, "seed": 4, "config": CONFIG, "where": HERE}
    with pytest.raises(StoppedError):
        synth(bucket.uri, **arguments, on_video=stop_after(5))
    assert bucket.exists("making/settings.json")
    assert synth(bucket.uri, **arguments) == made[1]
    local = Folder(str(made[0]))
    assert bucket.list() == local.list()
    for name in ("synth.json", "mask_dict.json", "videos/train_000000.mp4"):
        assert bucket.read_bytes(name) == local.read_bytes(name)


def test_a_finished_folder_is_not_written_again(made: tuple[Path, Synthesised]) -> None:
    before, seen = digests(made[0]), list[str]()
    (made[0] / "making/videos").mkdir(parents=True)
    # as after a stop between synth.json and the clean-up
    (made[0] / "making/videos/train_000000.json").write_text("{}")
    assert synth(str(made[0]), videos=VIDEOS, seed=4, config=CONFIG, on_video=seen.append) == made[1]
    assert digests(made[0]) == before
    assert seen == []


@pytest.mark.ray
def test_the_command_killed_in_the_middle_and_run_again_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    config = SynthConfig(frames=(16, 20), short_sides=(160,), expressions=2)
    calm = synth(str(tmp_path / "calm"), videos=8, seed=9, config=config, where=HERE)
    line = ["synth", str(tmp_path / "killed"), "--videos", "8", "--seed", "9", "--set", "frames=[16, 20]"]
    line += ["--set", "short_sides=[160]", "--set", "expressions=2"]
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *line]
    finished = tmp_path / "killed/making/videos"
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(finished.glob("train*.json"))) < 2:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/synth.json").exists(), "the process was to be killed in the middle"
    whole = [tmp_path / "killed/videos" / f"{path.stem}.mp4" for path in finished.glob("train*.json")]
    written = [path.stat().st_mtime_ns for path in whole]
    assert len(whole) >= 2
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert calm.checksum in again.stdout.replace("\n", "")
    assert [path.stat().st_mtime_ns for path in whole] == written  # finished videos are not made again
    kept = {name: digest for name, digest in digests(tmp_path / "killed").items() if not name.endswith(".partial")}
    assert kept == digests(tmp_path / "calm")


def test_a_folder_begun_before_a_setting_existed_goes_on_with_that_setting_at_its_default(
    made: tuple[Path, Synthesised], tmp_path: Path
) -> None:
    output = shutil.copytree(made[0], tmp_path / "out")
    about = read(output / "synth.json")
    for gone in ("joined", "varied"):
        del about["config"][gone]
    (output / "synth.json").write_text(json.dumps(about))
    same: dict[str, Any] = {"videos": VIDEOS, "seed": 4, "where": HERE}
    assert synth(str(output), **same, config=CONFIG).videos == made[1].videos
    with pytest.raises(SettingsError, match=r"joined is 0\.0, not 0\.5"):
        synth(str(output), **same, config=replace(CONFIG, joined=0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "seed is 4, not 5"),
        ({"form": "mp4"}, "format is both, not mp4"),
        ({"videos": 11}, "videos is {'train': 9, 'valid': 1, 'test': 1, 'test_unseen': 1}, not {'train': 8, "),
        ({"config": SynthConfig(frames=(8, 10), short_sides=(64, 96), expressions=3)}, "expressions is 2, not 3"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_of_other_settings_is_refused_with_the_difference(
    made: tuple[Path, Synthesised], tmp_path: Path, changes: dict[str, Any], message: str, whole: bool
) -> None:
    output = made[0] if whole else tmp_path / "out"
    same: dict[str, Any] = {"videos": VIDEOS, "seed": 4, "config": CONFIG, "where": HERE}
    if not whole:
        with pytest.raises(StoppedError):
            synth(str(output), **same, on_video=stop_after(1))
    before = digests(output)
    with pytest.raises(SettingsError) as caught:
        synth(str(output), **{**same, **changes})
    assert f"holds videos of other settings ({message}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert digests(output) == before


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="exists and is not empty"):
        synth(str(tmp_path), videos=1, seed=0, where=HERE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_come_from_a_file_and_from_assignments(tmp_path: Path) -> None:
    (tmp_path / "synth.yaml").write_text("frames: [8, 16]\nshort_sides: [128]\neffects: 0.5\n")
    config = load_config(str(tmp_path / "synth.yaml"), ["objects=[2, 3]", "effects=0"])
    assert config == SynthConfig(frames=(8, 16), short_sides=(128,), effects=0.0, objects=(2, 3))
    assert load_config(None, []) == SynthConfig()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("frame=[8, 16]", "setting frame: no such setting; did you mean frames? vrshq settings synth lists all"),
        ("frames=[1, 2]", "setting frames = "),
        ("frames=few", "setting frames: "),
        ("frames", "--set frames: expected key=value"),
        ("frames=[", "--set frames=[: the value is not YAML"),
    ],
)
def test_a_wrong_setting_is_named(assignment: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(None, [assignment])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_command_says_what_it_does_only_after_it_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for folder, more, words in (("full", ["--videos", "2"], "is not empty"), ("new", ["--videos", "0"], "--videos 0")):
        refused = vrshq("synth", str(tmp_path / folder), *more, "--no-ray")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert words in refused.stderr
    small = ["--set", "frames=[8, 8]", "--set", "short_sides=[64]", "--set", "expressions=1"]
    done = vrshq("synth", str(tmp_path / "new"), "--videos", "1", "--no-ray", *small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1 videos of seed 0 into {tmp_path}/new\n1 train; instructions: ")
