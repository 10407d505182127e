"""Promises of the data-set readers, each on a small data set in its layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from tests.support import dataset_fixtures as fixtures
from tests.support.parity import KIT
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks.rle import Rle
from vrshq.pipelines.evaluate.datasets import Benchmark, DatasetError, Folders, Video, benchmark_names, open_benchmark
from vrshq.pipelines.evaluate.datasets.codes import MaskError, as_rles

# name -> (writer, split)
LAYOUTS: dict[str, tuple[Callable[[Path], fixtures.Truth], str | None]] = {
    "revos": (fixtures.write_revos, None),
    "mevis": (fixtures.write_mevis, None),
    "mevis-v2": (partial(fixtures.write_mevis, version=2), None),
    "ref-youtube-vos": (fixtures.write_ref_youtube_vos, "train"),
    "ref-davis17": (fixtures.write_ref_davis, None),
    "ref-davis17-official": (fixtures.write_ref_davis, None),
    "reasonvos": (fixtures.write_reasonvos, None),
    "long-rvos": (fixtures.write_long_rvos, None),
    "lvvis": (fixtures.write_lvvis, None),
    "png-tree": (fixtures.write_png_tree, None),
}


def pixels(codes: list[list[Rle]], shape: tuple[int, int]) -> np.ndarray:
    """The sum of each frame's masks, (T, H, W)."""
    return np.stack([sum((coco.decode(code) for code in frame), np.zeros(shape, np.uint8)) for frame in codes])


def truth_of(benchmark: Benchmark) -> fixtures.Truth:
    found: fixtures.Truth = {}
    for video in benchmark.videos:
        for expression in video.expressions:
            codes = benchmark.masks(video, expression)
            sizes = {code["size"] for frame in codes for code in frame}
            assert len(sizes) <= 1
            # a frame without the object has no mask, in every layout
            assert all(coco.area(code) for frame in codes for code in frame)
            found[video.video_id, expression.expression_id] = pixels(codes, sizes.pop() if sizes else (1, 1)) > 0
    return found


def assert_same(found: fixtures.Truth, truth: fixtures.Truth) -> None:
    assert found.keys() == truth.keys()
    for key, masks in truth.items():
        assert len(found[key]) == len(masks), key
        assert (found[key] == masks).all(), key


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs in column-major order, zeros first."""
    flat = mask.flatten(order="F") > 0
    lengths: list[int] = np.diff(
        np.concatenate([[0], np.flatnonzero(np.diff(flat, prepend=False)), [flat.size]])
    ).tolist()
    return lengths


def video_of(benchmark: Benchmark, video_id: str) -> Video:
    return next(video for video in benchmark.videos if video.video_id == video_id)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_layout_is_known_by_name() -> None:
    assert benchmark_names() == sorted(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_masks_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    writer, split = LAYOUTS[name]
    truth = writer(tmp_path)
    benchmark = open_benchmark(name, str(tmp_path), split=split)
    assert benchmark.has_masks
    assert_same(truth_of(benchmark), truth)
    for video in benchmark.videos:
        for frame in video.frames:
            assert (tmp_path / video.uri / f"{frame}.jpg").is_file()


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_bucket_reads_as_a_folder_does(name: str, tmp_path: Path) -> None:
    writer, split = LAYOUTS[name]
    truth = writer(tmp_path)
    bucket = Folder(f"memory://datasets-{tmp_path.name}/{name}")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            bucket.write_bytes(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    try:
        benchmark = open_benchmark(name, bucket.uri, split=split)
        assert benchmark.videos == open_benchmark(name, str(tmp_path), split=split).videos
        assert_same(truth_of(benchmark), truth)
    finally:
        for found in bucket.list():
            bucket.remove(found)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_benchmark_can_be_sent_to_another_process(name: str, tmp_path: Path) -> None:
    writer, split = LAYOUTS[name]
    truth = writer(tmp_path)
    assert_same(truth_of(pickle.loads(pickle.dumps(open_benchmark(name, str(tmp_path), split=split)))), truth)


def test_revos_tells_kinds_sources_and_sizes(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    benchmark = open_benchmark("revos", str(tmp_path))
    video = video_of(benchmark, "TAO/clip one")
    assert (video.source, video.height, video.width) == ("TAO", 48, 64)
    assert video.uri == "JPEGImages/TAO/clip one"
    assert [expression.kind for expression in video.expressions] == ["referring", "reasoning", "no-target"]
    assert [expression.object_ids for expression in video.expressions] == [("1",), ("1", "2"), ()]
    assert video_of(benchmark, "MOSE_b").source is None
    assert [video.video_id for video in benchmark.videos] == ["TAO/clip one", "MOSE_b"]


def test_revos_foreground_is_the_sum_of_all_objects(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    benchmark = open_benchmark("revos", str(tmp_path))
    clip = fixtures.make_clip(1)
    video = video_of(benchmark, "TAO/clip one")
    codes = benchmark.foreground(video)
    assert codes is not None
    assert (pixels(codes, clip.shape[1:]) == fixtures.union(clip, ["1", "2"])).all()
    everything = fixtures.union(clip, ["1", "2"])

    def twice(content: Any) -> None:  # the sum of an entry with several RLEs exceeds 1
        content["TAO/clip one"]["masks_rle"][0] = [fixtures.rle(everything[0])] * 2

    edit(tmp_path / "mask_dict_foreground.json", twice)
    codes = open_benchmark("revos", str(tmp_path)).foreground(video)
    assert codes is not None
    assert pixels(codes, clip.shape[1:]).max() == 2
    edit(tmp_path / "mask_dict_foreground.json", lambda content: content["TAO/clip one"]["masks_rle"].append(None))
    assert len(open_benchmark("revos", str(tmp_path)).foreground(video) or []) == len(video.frames)
    edit(tmp_path / "mask_dict_foreground.json", lambda content: content["TAO/clip one"].update(masks_rle=[None]))
    with pytest.raises(DatasetError, match="TAO/clip one has 1 masks for 4 frames"):
        open_benchmark("revos", str(tmp_path)).foreground(video)
    (tmp_path / "mask_dict_foreground.json").unlink()
    assert open_benchmark("revos", str(tmp_path)).foreground(video) is None


def test_revos_opens_the_split_and_the_names_it_is_given(tmp_path: Path) -> None:
    truth = fixtures.write_revos(tmp_path, "train")
    assert_same(truth_of(open_benchmark("revos", str(tmp_path), split="train")), truth)
    (tmp_path / "meta_expressions_train_.json").rename(tmp_path / "meta.json")
    (tmp_path / "mask_dict.json").rename(tmp_path / "gt.json")
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    folders = Folders(frames="images", metadata="meta.json", masks="gt.json")
    benchmark = open_benchmark("revos", str(tmp_path), folders=folders)
    assert benchmark.videos[0].uri == "images/TAO/clip one"
    assert_same(truth_of(benchmark), truth)


def test_overlapping_masks_of_an_expression_are_kept_apart(tmp_path: Path) -> None:
    clip = fixtures.make_clip(1)
    both = fixtures.Clip(clip.frames, {"1": clip.objects["1"], "2": clip.objects["1"] | clip.objects["2"]})
    fixtures.write_revos(tmp_path, videos={"a": both})
    benchmark = open_benchmark("revos", str(tmp_path))
    codes = benchmark.masks(benchmark.videos[0], benchmark.videos[0].expressions[1])
    assert pixels(codes, clip.shape[1:]).max() == 2


def test_mask_lists_are_cut_or_refused_as_the_public_evaluator_does(tmp_path: Path) -> None:
    truth = fixtures.write_revos(tmp_path)

    def resize(content: Any) -> None:
        content["1"].append(content["1"][0])
        content["11"].pop()
        del content["12"]

    edit(tmp_path / "mask_dict.json", resize)
    benchmark = open_benchmark("revos", str(tmp_path))
    video = benchmark.videos[0]
    codes = benchmark.masks(video, video.expressions[0])
    assert (pixels(codes, (48, 64)) == truth[video.video_id, "0"]).all()
    short, unknown = benchmark.videos[1].expressions[:2]
    with pytest.raises(DatasetError, match=r"has 4 masks for annotation 11, expected 5.*MOSE_b, expression 0"):
        benchmark.masks(benchmark.videos[1], short)
    edit(tmp_path / "mask_dict.json", lambda content: content["11"].append(None))
    benchmark = open_benchmark("revos", str(tmp_path))
    with pytest.raises(DatasetError, match="no masks for annotation 12"):
        benchmark.masks(benchmark.videos[1], unknown)


def test_counts_may_be_uncompressed(tmp_path: Path) -> None:
    truth = fixtures.write_revos(tmp_path)

    def uncompress(content: Any) -> None:
        for masks in content.values():
            for code in filter(None, masks):
                code["counts"] = run_lengths(coco.decode(code))

    edit(tmp_path / "mask_dict.json", uncompress)
    assert_same(truth_of(open_benchmark("revos", str(tmp_path))), truth)


def test_mevis_v1_and_v2_and_the_splits_without_masks(tmp_path: Path) -> None:
    truth = fixtures.write_mevis(tmp_path, "train")
    assert_same(truth_of(open_benchmark("mevis", str(tmp_path), split="train")), truth)
    truth = fixtures.write_mevis(tmp_path, "valid_u", version=2)
    benchmark = open_benchmark("mevis", str(tmp_path))
    assert_same(truth_of(benchmark), truth)
    assert [expression.kind for expression in benchmark.videos[0].expressions] == [None, None, "no-target"]
    for split in ("valid", "test"):
        fixtures.write_mevis(tmp_path, split)
        benchmark = open_benchmark("mevis", str(tmp_path), split=split)
        assert not benchmark.has_masks
        assert benchmark.videos[0].expressions[0].text == "the disk moving right"
        with pytest.raises(DatasetError, match="no masks to score against"):
            benchmark.masks(benchmark.videos[0], benchmark.videos[0].expressions[0])


def test_mevis_takes_v1_where_both_versions_are_there_unless_told(tmp_path: Path) -> None:
    fixtures.write_mevis(tmp_path, "valid_u", version=2)
    fixtures.write_mevis(tmp_path, "valid_u", version=1)
    assert len(open_benchmark("mevis", str(tmp_path)).videos[0].expressions) == 2
    folders = Folders(metadata="valid_u/meta_expressions_v2.json")
    assert len(open_benchmark("mevis", str(tmp_path), folders=folders).videos[0].expressions) == 3


def test_ref_youtube_vos_valid_leaves_out_what_the_test_list_names(tmp_path: Path) -> None:
    fixtures.write_ref_youtube_vos(tmp_path)
    benchmark = open_benchmark("ref-youtube-vos", str(tmp_path))
    assert [video.video_id for video in benchmark.videos] == ["v_scored", "v_too"]
    assert benchmark.videos[0].frames == ("00000", "00005", "00010")
    assert not benchmark.has_masks


def test_the_running_index_counts_sorted_videos_and_string_sorted_expressions(tmp_path: Path) -> None:
    truth = fixtures.write_ref_youtube_vos(tmp_path)
    folders = Folders(masks="train/mask_dict.pkl")
    benchmark = open_benchmark("ref-youtube-vos", str(tmp_path), split="train", folders=folders)
    assert_same(truth_of(benchmark), truth)
    entries = pickle.loads((tmp_path / "train" / "mask_dict.pkl").read_bytes())
    # aaa has 2 expressions, then bbb has 0, 1, 10, 11, 2, ...: number 4 of the file is "10" of bbb
    third = coco.decode(entries["4"][1]) > 0
    assert (third == truth["bbb", "10"][1]).all()
    # palette images and the pickle hold the same masks
    assert_same(truth_of(open_benchmark("ref-youtube-vos", str(tmp_path), split="train")), truth)


def test_davis_official_tells_objects_and_annotators(tmp_path: Path) -> None:
    fixtures.write_ref_davis(tmp_path)
    (tmp_path / "valid" / "mask_dict.pkl").unlink()  # the official protocol does not need it
    video = open_benchmark("ref-davis17-official", str(tmp_path)).videos[0]
    assert [expression.object_ids for expression in video.expressions] == [("1",)] * 4 + [("2",)] * 4
    assert [int(expression.expression_id) % 4 for expression in video.expressions] == [0, 1, 2, 3] * 2


def test_a_missing_annotation_image_is_an_error_and_not_an_empty_mask(tmp_path: Path) -> None:
    fixtures.write_ref_davis(tmp_path)
    (tmp_path / "valid" / "Annotations" / "goat" / "00002.png").unlink()
    benchmark = open_benchmark("ref-davis17-official", str(tmp_path))
    video = video_of(benchmark, "goat")
    with pytest.raises(DatasetError, match=r"goat/00002\.png.*expected an annotation image for each frame"):
        benchmark.masks(video, video.expressions[0])


def test_reasonvos_texts_on_one_object_share_its_masks(tmp_path: Path) -> None:
    truth = fixtures.write_reasonvos(tmp_path)
    benchmark = open_benchmark("reasonvos", str(tmp_path))
    video = benchmark.videos[0]
    assert (video.source, [expression.kind for expression in video.expressions]) == ("MOSE", ["reasoning"] * 3)
    assert [expression.text for expression in video.expressions][1] == "what would roll?"
    assert (truth_of(benchmark)["clip_a", "0"] == truth["clip_a", "1"]).all()


def test_lvvis_texts_have_spaces(tmp_path: Path) -> None:
    fixtures.write_lvvis(tmp_path)
    texts = [expression.text for expression in open_benchmark("lvvis", str(tmp_path)).videos[0].expressions]
    assert texts == ["red disk", "blue square (toy)"]


def test_the_parity_kit_reads_as_revos() -> None:
    root = KIT / "metrics" / "mini_dataset"
    if not root.is_dir():
        pytest.skip(f"no parity kit at {KIT} (set VRSHQ_PARITY_DIR)")
    benchmark = open_benchmark("revos", str(root), folders=Folders(metadata="meta_expressions.json"))
    kinds = [expression.kind for video in benchmark.videos for expression in video.expressions]
    assert len(kinds) == 15
    for video in benchmark.videos:
        assert [len(benchmark.masks(video, expression)) for expression in video.expressions] == [len(video.frames)] * 5
        assert len(benchmark.foreground(video) or []) == len(video.frames)


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    fixtures.write_ref_davis(tmp_path)
    for content, named in [({"0": [_Runs()]}, "builtins.exec"), (np.zeros(3), r"numpy[.\w]*_reconstruct")]:
        (tmp_path / "valid" / "mask_dict.pkl").write_bytes(pickle.dumps(content))
        benchmark = open_benchmark("ref-davis17", str(tmp_path))
        with pytest.raises(DatasetError, match=rf"mask_dict\.pkl is refused: it asks for {named}"):
            benchmark.masks(benchmark.videos[0], benchmark.videos[0].expressions[0])
    (tmp_path / "valid" / "mask_dict.pkl").write_bytes(b"no pickle")
    benchmark = open_benchmark("ref-davis17", str(tmp_path))
    with pytest.raises(DatasetError, match=r"mask_dict\.pkl is (refused|not a pickle)"):
        benchmark.masks(benchmark.videos[0], benchmark.videos[0].expressions[0])


@pytest.mark.parametrize("video_id", ["../outside", "/etc", "a//b", "a\\b", "a\0b", ".", "", "a\ud800"])
def test_an_id_that_leads_outside_is_refused(video_id: str, tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    path = tmp_path / "meta_expressions_valid_.json"
    edit(path, lambda content: content["videos"].update({video_id: content["videos"]["MOSE_b"]}))
    with pytest.raises(DatasetError, match=r"unusable entries.*--check"):
        open_benchmark("revos", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", 'has no object "videos"'),
        ('{"videos": []}', 'has no object "videos"'),
    ],
)
def test_metadata_that_cannot_be_read_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "meta_expressions_valid_.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        open_benchmark("revos", str(tmp_path))
    assert "meta_expressions_valid_.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_splits_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no data set 'coco'.*revos"):
        open_benchmark("coco", str(tmp_path))
    with pytest.raises(DatasetError, match="no split 'tset'; expected one of valid, train"):
        open_benchmark("revos", str(tmp_path), split="tset")


def test_nulls_and_missing_fields_are_no_reason_to_fail(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)

    def thin(content: Any) -> None:
        first, second = content["videos"].values()
        first["expressions"]["0"] |= {"exp": None, "obj_id": None, "anno_id": None, "type_id": None}
        first["expressions"]["1"] = {}
        first["expressions"]["2"]["exp"] = "half \ud83d"
        second["expressions"], second["frames"], second["height"] = None, None, "tall"

    edit(tmp_path / "meta_expressions_valid_.json", thin)
    benchmark = open_benchmark("revos", str(tmp_path))
    first, second = benchmark.videos
    assert [(found.text, found.kind, found.object_ids) for found in first.expressions[:2]] == [("", None, ())] * 2
    assert first.expressions[2].text == "half ?"
    assert benchmark.masks(first, first.expressions[0]) == [[]] * 4
    assert (second.expressions, second.frames, second.height) == ((), (), None)


masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans())


@settings(max_examples=200, deadline=None)
@given(masks)
def test_a_mask_reads_the_same_in_each_form_of_counts(mask: np.ndarray) -> None:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    uncompressed = {"size": list(mask.shape), "counts": run_lengths(mask)}
    for entry in (code, code | {"counts": code["counts"].decode()}, uncompressed):
        [found] = as_rles(entry)
        assert found["size"] == mask.shape
        assert (coco.decode(found) == mask).all()


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=40) | st.text("0123456789:;<=>?@ABCDEFGNOPQ`o", max_size=12),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_counts_that_do_not_fill_the_image_never_reach_the_decoder(
    counts: bytes | str, height: int, width: int
) -> None:
    """Pycocotools leaves pixels undefined where counts end too early: two decodes of one code may then differ."""
    try:
        [found] = as_rles({"size": [height, width], "counts": counts})
    except MaskError:
        return
    mask = coco.decode(found)
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum() == coco.area(found)


@pytest.mark.parametrize("counts", ["", "00", "08", "o", "018000000000000", "0180000000000000111"])
def test_counts_that_are_cut_or_too_long_are_refused(counts: str) -> None:
    whole = coco.encode(np.asfortranarray(np.eye(8, dtype=np.uint8)))["counts"]
    assert whole == b"0180000000000000"
    with pytest.raises(MaskError):
        as_rles({"size": [8, 8], "counts": counts})


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        7,
        {"size": [2, 2]},
        {"size": [2], "counts": "04"},
        {"size": [2, -2], "counts": "04"},
        {"size": [10**6, 10**6], "counts": "04"},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "00"},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": [2, 2], "counts": None},
        [[{"size": [2, 2], "counts": "04"}]],
    ],
)
def test_an_entry_that_is_not_a_mask_is_refused(entry: Any) -> None:
    with pytest.raises(MaskError):
        as_rles(entry)
