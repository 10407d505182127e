"""Promises of the readers of the training mixture, each on a small data set in its layout, and of the paper's recipe."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support.clips import h264, read_code
from tests.support.dataset_fixtures import (
    make_clip,
    rle,
    write_json,
    write_lvvis,
    write_mevis,
    write_ref_davis,
    write_ref_youtube_vos,
    write_revos,
)
from tests.support.paths import CONFIGS
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.batch import InputError
from vrshq.operators.training.clip import Clip
from vrshq.operators.training.start import build
from vrshq.operators.training.step import StageTrainer
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.train.dialogues import PADDING, pairs, squares
from vrshq.pipelines.train.images import outlines, spoken_category
from vrshq.pipelines.train.mixture import Group
from vrshq.pipelines.train.run import train
from vrshq.pipelines.train.sets import READERS, open_source
from vrshq.pipelines.train.settings import FileData, SourceConfig, load_train_settings

HEIGHT, WIDTH = 48, 64
BOX = [[10, 10, 30, 10, 30, 30, 10, 30]]  # x, y of the corners of a square


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:30] = True
    return mask


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_clip().frames[0]).save(path)


def write_labels(path: Path, value: int, around: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.full((HEIGHT, WIDTH), around, np.uint8)
    numbers[10:30, 10:30] = value
    Image.fromarray(numbers).save(path)


def coco_file(path: Path, segmentation: Any, name: str = "dog:ear", file_name: str = "train2017/1.jpg") -> None:
    image = {"id": 1, "file_name": file_name, "height": HEIGHT, "width": WIDTH}
    annotation = {"id": 7, "image_id": 1, "category_id": 3, "segmentation": segmentation, "iscrowd": 0}
    write_json(path, {"images": [image], "annotations": [annotation], "categories": [{"id": 3, "name": name}]})


def write_images(root: Path) -> None:
    """Writes all image sets and dialogues of the mixture, each with one image of the same square."""
    write_picture(root / "ade20k/images/training/a.jpg")
    write_labels(root / "ade20k/annotations/training/a.png", 2)
    write_json(root / "ade20k/classes.json", ["wall", "building", "sky"])
    write_picture(root / "coco/train2017/1.jpg")
    write_labels(root / "cocostuff/train2017/1.png", 1)
    (root / "cocostuff/classes.txt").write_text("0: unlabeled\n0: fog-other\n1: person\n")
    labels = [{"readable": "Road"}, {"readable": "Traffic Light"}, {"readable": "Unlabeled"}]
    write_json(root / "mapillary/config_v2.0.json", {"labels": labels})
    write_picture(root / "mapillary/training/images/m.jpg")
    write_labels(root / "mapillary/training/v2.0/labels/m.png", 1, around=2)
    coco_file(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", BOX)
    coco_file(root / "vlpart/pascal_part/train.json", rle(square()), "cat_(pet):left_leg", "1.jpg")
    write_picture(root / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/1.jpg")
    shapes = [
        {"label": "target", "points": [[10, 10], [29, 10], [29, 29], [10, 29]]},
        {"label": "ignore", "points": [[0, 40], [20, 40], [20, 47], [0, 47]]},
        {"label": "flag", "points": [[0, 0], [9, 0], [9, 9]]},
    ]
    write_json(root / "reason_seg/ReasonSeg/train/r.json", {"text": ["What would cool it?"], "shapes": shapes})
    write_picture(root / "reason_seg/ReasonSeg/train/r.jpg")
    explained = {"image": "r.jpg", "query": "What?", "outputs": "The square is cold."}
    write_json(root / "reason_seg/ReasonSeg/explanatory/train.json", [explained])
    for name in ("refcoco", "refcoco+", "refcocog", "refclef"):
        ref = {"ann_id": 7, "image_id": 1, "split": "train", "sentences": [{"sent": "The Square"}, {"sent": " "}]}
        other = ref | {"split": "val", "sentences": [{"sent": "never"}]}
        by = "umd" if name == "refcocog" else "unc"
        coco_file(root / f"refer_seg/{name}/instances.json", BOX, "x", "1.jpg")
        (root / f"refer_seg/{name}/refs({by}).p").write_bytes(pickle.dumps([ref, other]))
    write_picture(root / "refer_seg/images/mscoco/images/train2014/1.jpg")
    write_picture(root / "refer_seg/images/saiapr_tc-12/1.jpg")
    talk = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A disk."},
        {"from": "human", "value": "Its colour?"},
        {"from": "gpt", "value": "Red."},
    ]
    write_json(root / "llava_dataset/llava_instruct_150k.json", [{"image": "1.jpg", "conversations": talk}])
    write_univi(root, talk)


def write_univi(root: Path, talk: list[dict[str, str]]) -> None:
    """Writes the three lists of Chat-UniVi-Instruct, each with one usable item and with items that its loader skips."""
    text, mimic = {"conversations": talk}, root / "Fine-tuning/MIMIC_imageonly"
    two = {"image": ["CGD_1.jpg", "CGD_2.jpg"], **text}
    unusable = [text, {"image": "XX_1.jpg", **text}, {"image": [], **text}, {"image": ["LA_1.jpg"] * 13, **text}]
    write_json(mimic / "MIMIC-IT-imageonly.json", [two, *unusable, {**two, "conversations": talk[:1]}])
    write_picture(mimic / "CGD/images/CGD_1.jpg")
    Image.new("RGB", (16, 16), (10, 200, 30)).save(mimic / "CGD/images/CGD_2.jpg")
    write_json(root / "ScienceQA_tuning/llava_train_QCM-LEA.json", [text, {"image": "7\\image.png", **text}])
    write_picture(root / "ScienceQA_tuning/train/7/image.png")
    write_json(root / "Fine-tuning/VIDEO/video_chat.json", [{"video": "v_a.mp4", **text}, text])
    (root / "Fine-tuning/VIDEO/Activity_Videos").mkdir(parents=True)
    h264(root / "Fine-tuning/VIDEO/Activity_Videos/v_a.mp4")


def write_videos(root: Path) -> None:
    write_revos(root / "ReVOS", "train")
    write_mevis(root / "MeViS", "train")
    write_lvvis(root / "lvvis")
    write_ref_youtube_vos(root / "Ref_Youtube_VOS")
    write_ref_davis(root / "Ref_DAVIS")  # it writes split valid; train has the same layout
    for inside in ("", "meta_expressions/"):
        (root / "Ref_DAVIS" / f"{inside}valid").rename(root / "Ref_DAVIS" / f"{inside}train")


def drawn(name: str, root: Path, seed: int = 0, **changes: Any) -> Clip:
    source = open_source(SourceConfig(files=FileData(reader=name, root=str(root), **changes)))
    clip: Clip = source.draw(np.random.default_rng(seed))
    return clip


IMAGES = {
    "ade20k": "building",
    "coco-stuff": "person",
    "mapillary": "traffic light",
    "paco-lvis": "the ear of the dog",
    "pascal-part": "the left leg of the cat",
    "reason-seg": "what would cool it?",
    "refcoco": "the square",
    "refcoco+": "the square",
    "refcocog": "the square",
    "refclef": "the square",
}


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_an_image_set_gives_its_text_and_mask(name: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    clip = drawn(name, tmp_path)
    assert clip.texts == (IMAGES[name],)
    assert clip.frames.shape == (1, HEIGHT, WIDTH, 3)
    assert clip.masks is not None
    assert np.array_equal(clip.masks[0, 0], square())
    assert not clip.is_video


def test_pixels_of_no_class_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path)
    void = drawn("ade20k", tmp_path).ignored
    assert void is not None
    assert np.array_equal(void, ~square())
    ignored = drawn("reason-seg", tmp_path).ignored
    assert ignored is not None
    assert ignored[41:47, 1:20].all()
    assert not ignored[:38].any()


UNIVI = ("chat-univi-mimic", "chat-univi-sqa", "chat-univi-video")
DIALOGUES = ("llava-instruct", *UNIVI)
ACTIVITY = "Fine-tuning/VIDEO/Activity_Videos"


def test_dialogues_keep_their_turns_and_those_of_chat_univi_the_last_one(tmp_path: Path) -> None:
    write_images(tmp_path)
    whole = drawn("llava-instruct", tmp_path)
    assert whole.turns == (("<image>\nWhat is it?", "A disk."), ("Its colour?", "Red."))
    for name in UNIVI:
        assert drawn(name, tmp_path).turns == (("Its colour?", "Red."),)


@pytest.mark.parametrize("name", ["chat-univi-mimic", "chat-univi-sqa"])
def test_all_pictures_of_an_item_are_padded_to_squares_of_one_size(name: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    bar = (WIDTH - HEIGHT) // 2
    for seed in range(8):  # unusable items are never drawn
        frames = drawn(name, tmp_path, seed).frames
        assert frames.shape == (2 if name == "chat-univi-mimic" else 1, WIDTH, WIDTH, 3)
        assert np.abs(frames[0, bar:-bar].astype(int) - make_clip().frames[0]).mean() < 6
        assert (frames[0, :bar] == PADDING).all()
        assert (frames[0, -bar:] == PADDING).all()
        if len(frames) == 2:
            assert np.abs(frames[1].astype(int) - (10, 200, 30)).max() < 6


def test_a_picture_of_extreme_shape_is_shrunk_before_padding() -> None:
    made = squares([np.zeros((3, 5000, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)])
    assert made.shape == (2, 2048, 2048, 3)


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_video_dialogue_shows_a_frame_of_each_segment(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "data")
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("VRSHQ_SCRATCH", str(scratch))
    root = str(tmp_path / "data")
    if place == "bucket":
        local, root = Folder(root), "memory://training-sets"
        for name in local.list("Fine-tuning/VIDEO"):
            Folder(root).write_bytes(name, local.read_bytes(name))
    source = open_source(SourceConfig(files=FileData(reader="chat-univi-video", root=root)))
    lengths = set()
    for seed in range(12):
        clip = source.draw(np.random.default_rng(seed))
        shown = [read_code(frame) for frame in clip.frames]
        bounds = np.linspace(0, 60, len(shown) + 1).astype(int)
        assert all(low <= number < high for low, number, high in zip(bounds, shown, bounds[1:], strict=False))
        assert clip.is_video
        lengths.add(len(shown))
    assert min(lengths) >= 8
    assert max(lengths) <= 12
    assert len(lengths) > 2
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_a_short_video_is_shown_whole(tmp_path: Path) -> None:
    write_images(tmp_path)
    h264(tmp_path / ACTIVITY / "v_a.mp4", frames=5)
    assert [read_code(frame) for frame in drawn("chat-univi-video", tmp_path).frames] == [0, 1, 2, 3, 4]


def test_files_of_chat_univi_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path)
    talk = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    listing = tmp_path / "Fine-tuning/VIDEO/video_chat.json"
    (tmp_path / ACTIVITY / "broken.mp4").write_bytes(b"no video")
    bad = [{"video": name, **talk} for name in ("gone.mp4", "broken.mp4", "../video_chat.json")]
    write_json(listing, [*bad, {"video": "v_a.mp4", **talk}])
    for seed in range(12):
        assert len(drawn("chat-univi-video", tmp_path, seed).frames) >= 8
    write_json(listing, bad[:1])
    with pytest.raises(InputError, match=r"gone\.mp4 cannot be opened"):
        drawn("chat-univi-video", tmp_path)
    pictures = tmp_path / "Fine-tuning/MIMIC_imageonly/CGD/images"
    (pictures / "CGD_2.jpg").write_bytes((pictures / "CGD_1.jpg").read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"CGD_2\.jpg: expected a JPEG or PNG picture that can be decoded"):
        drawn("chat-univi-mimic", tmp_path)


def test_explained_pictures_are_asked_about_for_words_alone_for_masks_and_words_or_for_masks(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_json(tmp_path / "reason_seg/ReasonSeg/train/s.json", {"text": ["What else?"], "shapes": []})
    write_picture(tmp_path / "reason_seg/ReasonSeg/train/s.jpg")
    source = open_source(SourceConfig(files=FileData(reader="reason-seg", root=str(tmp_path))))
    random = np.random.default_rng(0)
    clips = [source.draw(random) for _ in range(1000)]
    words = [clip for clip in clips if clip.turns]
    both = [clip for clip in clips if clip.words]
    assert 180 <= len(both) <= 270  # half of the others
    assert all(clip.words == ("The square is cold.",) and clip.masks is not None for clip in both)
    assert {clip.texts for clip in both} == {("what would cool it?",)}
    assert 30 <= len(words) <= 70  # half of the pictures are explained
    assert all(clip.turns == (("What would cool it?", "The square is cold."),) for clip in words)
    assert all(clip.masks is None for clip in words)
    assert {clip.texts for clip in clips if not clip.turns} == {("what would cool it?",), ("what else?",)}


VIDEOS = {
    "revos": "ReVOS",
    "mevis": "MeViS",
    "lvvis": "lvvis",
    "ref-youtube-vos": "Ref_Youtube_VOS",
    "ref-davis17": "Ref_DAVIS",
}


@pytest.mark.parametrize("name", sorted(VIDEOS))
def test_a_video_set_gives_frames_with_the_masks_of_its_expressions(name: str, tmp_path: Path) -> None:
    write_videos(tmp_path)
    seen = 0
    for seed in range(6):
        clip = drawn(name, tmp_path / VIDEOS[name], seed, frames=(2, 3), expressions=2)
        assert clip.is_video
        assert clip.masks is not None
        assert clip.masks.shape == (len(clip.texts), *clip.frames.shape[:3])
        assert 2 <= len(clip.frames) <= 3
        assert 1 <= len(clip.texts) <= 2
        # the disk of `make_clip`, within the blur of JPEG
        red = (clip.frames[..., 0] > 170) & (clip.frames[..., 2] < 100)
        for mask in clip.masks:
            if mask.any() and (mask & red).sum() > 0.6 * mask.sum():
                seen += 1
    assert seen > 0  # the masks lie on the drawn objects


def test_an_unknown_reader_and_an_absent_data_set_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="reader 'x'"):
        drawn("x", tmp_path)
    for name in READERS:
        with pytest.raises((DatasetError, OSError)) as caught:
            drawn(name, tmp_path)
        assert "\n" not in str(caught.value)


def test_a_group_draws_by_weight() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def draw(self, _: np.random.Generator) -> Clip:
            return Clip(self.name, np.zeros((1, 2, 2, 3), np.uint8))

    group = Group({"often": (9, Named("often")), "seldom": (1, Named("seldom"))})
    random = np.random.default_rng(0)
    assert 850 < sum(group.draw(random).source == "often" for _ in range(1000)) < 950


def test_outlines_paint_the_largest_first() -> None:
    def box(label: str, low: int, high: int) -> dict[str, Any]:
        return {"label": label, "points": [[low, low], [high, low], [high, high], [low, high]]}

    painted = outlines([box("target", 5, 10), box("ignore", 0, 20)], 30, 30)
    assert (painted[5:11, 5:11] == 1).all()
    assert (painted == 255).sum() == 21 * 21 - 36


def test_names_and_turns() -> None:
    assert spoken_category("dog:ear") == "the ear of the dog"
    assert spoken_category("red_cup_(tall)") == "red cup"
    assert pairs([{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]) == []


@pytest.mark.timeout(900)
def test_the_papers_recipe_goes_through_every_data_set_at_tiny_dims(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_images(tmp_path / "data")
    write_videos(tmp_path / "data")
    values = yaml.safe_load((CONFIGS / "vrs-hq-7b.yaml").read_text())
    values |= {"workers": 0, "device": "cpu", "log_every": 1, "checkpoint_every": 1, "bundle_dtype": "float32"}
    values["start"] |= {"bundle": "untrained-tiny"}
    stage = values["stages"][0]
    stage |= {"steps": 2, "batch": 4}
    set_roots(stage["data"], tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    settings = load_train_settings(str(path), [])
    train(settings, str(tmp_path / "run"))
    row = json.loads((tmp_path / "run/logs/vrs-hq.jsonl").read_text().splitlines()[-1])
    assert all(np.isfinite(row[name]) for name in ("loss", "ce", "bce", "dice"))
    # the mixture draws by weight; this test draws from each data set
    sources = dict(leaves(settings.stages[0].data))
    assert set(sources) == set(READERS)
    one = replace(settings.stages[0], batch=1, steps=len(sources))
    trainer = StageTrainer(build(settings.start, "untrained-tiny", 0, "cpu"), one, 0)
    for name, source in sources.items():
        losses = trainer.run_step([open_source(source).draw(np.random.default_rng(0))])
        assert np.isfinite(losses["loss"]), name
        assert ("bce" in losses) == (name not in DIALOGUES), name


def set_roots(sources: dict[str, Any], root: Path) -> None:
    for source in sources.values():
        set_roots(source.get("group", {}), root)
        if "files" in source:
            source["files"] |= {"root": str(root / source["files"]["root"]), "frames": [2, 3]}


def leaves(sources: dict[str, SourceConfig]) -> Iterator[tuple[str, SourceConfig]]:
    for source in sources.values():
        if source.group is not None:
            yield from leaves(source.group)
        elif source.files is not None:
            yield source.files.reader, source
