"""SAM 3 by text: equal to transformers' own session, each text for itself, shared image features, bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer, Sam2VideoVideoProcessor, Sam3ImageProcessor, Sam3VideoModel, Sam3VideoProcessor
from transformers.models.sam3_video import modeling_sam3_video

from tests.support.array_video import ArrayVideo
from tests.support.sam3_tiny import IMAGE, TEXTS, Weights, write_bundle
from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.family import Question, ReadConfig, Request, TrackConfig, TrackedObject
from vrshq.operators.models.sam3 import tracker as tracker_module
from vrshq.operators.models.sam3.family import language, load, tracker
from vrshq.operators.models.sam3.kernels import Kernels
from vrshq.operators.models.sam3.session import forget

FRAMES = 12
PERIOD = 16  # of a longer video, long enough for every count to reach its most
# (weights, video): many short objects; objects that are removed again; objects that are conditioned again and again
CASES = [(Weights(3, 8.0), 2), (Weights(4, 12.0), 1), (Weights(10, 10.0), 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Weights, str]:
    return {weights: write_bundle(tmp_path_factory.mktemp("sam3"), weights) for weights, _ in CASES}


def requests(*texts: str) -> dict[int, Request]:
    return {key: Request(text, [0], []) for key, text in enumerate(texts)}


def answers(folder: str, video: Any, *texts: str, dtype: str = "float32") -> list[dict[Any, Any]]:
    """By text: (frame, number) -> (mask, probability, first)."""
    found: list[dict[Any, Any]] = [{} for _ in texts]
    own = tracker(TrackConfig(model=folder, dtype=dtype))
    opened = own.open(video)
    for step in own.track(opened, requests(*texts)):
        full = own.full_size(opened, torch.stack([one.low_res for one in step])) > 0
        for one, mask in zip(step, full, strict=True):
            assert (one.frame, one.number) not in found[one.key]
            found[one.key][one.frame, one.number] = mask, torch.tensor(one.score).sigmoid().item(), one.prompted
    return found


def by_library(
    folder: str, video: ArrayVideo, text: str, dtype: torch.dtype = torch.float32
) -> dict[tuple[int, int], tuple[Tensor, float]]:
    """The library's own session on the whole video: (frame, number) -> (mask, probability)."""
    values: dict[str, Any] = {
        "size": {"height": IMAGE, "width": IMAGE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    processor = Sam3VideoProcessor(Sam3ImageProcessor(**values), Sam2VideoVideoProcessor(**values), tokenizer)
    model = Sam3VideoModel.from_pretrained(folder, dtype=dtype).eval()
    session = processor.init_video_session(video=list(video.array), dtype=dtype)
    session = processor.add_text_prompt(session, text)
    found, numbers = {}, dict[int, int]()
    for output in model.propagate_in_video_iterator(session):
        shown = processor.postprocess_outputs(session, output)
        for identity, mask in zip(shown["object_ids"].tolist(), shown["masks"], strict=True):
            number = numbers.setdefault(identity, len(numbers))
            found[output.frame_idx, number] = mask, output.obj_id_to_tracker_score.get(identity, 0.0)
    return found


def assert_equal(own: dict[Any, Any], library: dict[Any, Any]) -> None:
    assert own.keys() == library.keys()
    for place, (mask, probability) in library.items():
        assert torch.equal(own[place][0], mask), place
        assert own[place][1] == pytest.approx(probability, abs=1e-5), place


@pytest.mark.parametrize(
    ("case", "kernels", "count"),
    [
        (CASES[0], True, 3),
        (CASES[2], True, 1),
        (CASES[0], False, 1),
        *(pytest.param(case, True, 3, marks=pytest.mark.long) for case in CASES[1:]),
    ],
)
def test_masks_and_scores_equal_the_librarys_own_session(
    case: tuple[Weights, int], kernels: bool, count: int, folders: dict[Weights, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, seed = case
    folder, video = folders[weights], ArrayVideo(FRAMES, seed=seed)
    tracker(TrackConfig(model=folder))  # loading installs the kernels
    monkeypatch.setattr(modeling_sam3_video, "cv_utils_kernel", Kernels() if kernels else False)
    texts = TEXTS[:count]
    found = answers(folder, video, *texts)
    assert any(found)  # objects appear
    for text, own in zip(texts, found, strict=True):
        assert_equal(own, by_library(folder, video, text))


def test_the_cases_hold_what_they_are_for(folders: dict[Weights, str], monkeypatch: pytest.MonkeyPatch) -> None:
    removed: set[tuple[int, int]] = set()
    objects, conditioned, suppressed = 0, 0, 0
    plain = Kernels.generic_nms

    def counted(ious: Tensor, scores: Tensor, threshold: float, **options: Any) -> Tensor:
        nonlocal suppressed
        kept = plain(ious, scores, threshold, **options)
        suppressed += len(scores) - len(kept)
        return kept

    def watched(session: Any, frame: int, model: Any) -> None:
        nonlocal conditioned
        forget(session, frame, model)
        removed.update((id(session), one) for one in session.removed_obj_ids)
        outputs = [len(one["cond_frame_outputs"]) for one in session.output_dict_per_obj.values()]
        conditioned = max(conditioned, *outputs, 0)

    monkeypatch.setattr(Kernels, "generic_nms", staticmethod(counted))
    monkeypatch.setattr(tracker_module, "forget", watched)
    for weights, seed in CASES:
        found = answers(folders[weights], ArrayVideo(FRAMES, seed=seed), *TEXTS)
        objects += sum(len({number for _, number in one}) for one in found)
        for one in found:
            assert all(
                first == (frame == min(f for f, n in one if n == number))
                for (frame, number), (*_, first) in one.items()
            )
            assert {number for _, number in one} == set(range(len({number for _, number in one})))
    assert objects > 8
    assert removed
    assert suppressed
    assert conditioned > 2


def test_an_answer_is_the_same_whatever_is_asked_beside_it_and_in_any_order(folders: dict[Weights, str]) -> None:
    weights, seed = CASES[0]
    video = ArrayVideo(FRAMES, seed=seed)
    together = answers(folders[weights], video, *TEXTS, TEXTS[0])
    backwards = answers(folders[weights], video, *reversed(TEXTS))
    (alone,) = answers(folders[weights], video, TEXTS[0])
    assert_equal_answers(together[3], together[0])  # the same text twice
    assert_equal_answers(alone, together[0])
    for place in range(len(TEXTS)):
        assert_equal_answers(backwards[len(TEXTS) - 1 - place], together[place])


def assert_equal_answers(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key][0], other[key][0]) and one[key][1:] == other[key][1:] for key in one)


def test_every_frame_is_read_and_encoded_once_whatever_the_number_of_texts(folders: dict[Weights, str]) -> None:
    own = tracker(TrackConfig(model=folders[CASES[0][0]]))
    calls: list[int] = []
    hook = own.network.model.detector_model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    try:
        for texts in (TEXTS[:1], TEXTS, ()):
            calls.clear()
            video = ArrayVideo(FRAMES, seed=2)
            opened = own.open(video)
            for _ in own.track(opened, requests(*texts)):
                pass
            expected = FRAMES if texts else 0
            assert (len(calls), opened.encoder_calls, video.read) == (expected, expected, list(range(expected)))
    finally:
        hook.remove()


def kept(session: Any) -> tuple[int, dict[str, int]]:
    """How many frames a session has in memory, and the largest number of what it keeps for one object, by kind."""
    most: dict[str, int] = {}
    for outputs in session.output_dict_per_obj.values():
        tracked, conditioned = outputs["non_cond_frame_outputs"], outputs["cond_frame_outputs"]
        both = [*tracked.values(), *conditioned.values()]
        counts = {
            "tracked": len(tracked),
            "memories": sum("maskmem_features" in one for one in both),
            "masks": sum("pred_masks" in one or "high_res_masks" in one for one in both),
            "slices": sum(
                value.untyped_storage().nbytes() > value.nbytes
                for one in conditioned.values()
                for value in one.values()
            ),
        }
        most = {name: max(count, most.get(name, 0)) for name, count in counts.items()}
    lists = [*session.unmatched_frame_inds.values(), *session.overlap_pair_to_frame_inds.values()]
    most["frames listed"] = max(map(len, lists), default=0)
    most["frames scored"] = len(session.obj_id_to_tracker_score_frame_wise) + len(session.suppressed_obj_ids)
    most["frames tracked"] = sum(map(len, session.frames_tracked_per_obj.values()))
    most["features"] = len(session.cache._vision_features)
    return len(session.processed_frames.current), most


@pytest.mark.parametrize("case", [CASES[0], pytest.param(CASES[2], marks=pytest.mark.long)])
def test_a_longer_video_takes_no_more_memory(
    case: tuple[Weights, int], folders: dict[Weights, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, seed = case
    counts: list[tuple[int, dict[str, int]]] = []

    def watched(session: Any, frame: int, model: Any) -> None:
        forget(session, frame, model)
        counts.append(kept(session))

    def most(frames: int) -> dict[str, int]:
        video = ArrayVideo(PERIOD, seed=seed)
        video.array = np.concatenate([video.array] * (frames // PERIOD))
        video.num_frames = frames
        counts.clear()
        own = tracker(TrackConfig(model=folders[weights]))
        held = 0
        for step in own.track(own.open(video), requests(TEXTS[0])):
            held = max(held, len({one.frame for one in step}))
        assert len(counts) == frames
        assert {shown for shown, _ in counts} == {1}
        return {name: max(row.get(name, 0) for _, row in counts) for name in counts[-1][1]} | {"at once": held}

    monkeypatch.setattr(tracker_module, "forget", watched)
    short, long = most(PERIOD), most(3 * PERIOD)
    assert short["tracked"] == 3  # max_object_pointers_in_encoder - 1
    assert short["memories"] <= 2 + 1  # num_maskmem - 1 tracked frames, max_cond_frame_num conditioned ones
    assert short["masks"] == short["slices"] == 0
    assert short == long


@pytest.mark.long
def test_a_long_video_still_equals_the_library(folders: dict[Weights, str]) -> None:
    weights, seed = CASES[2]
    video = ArrayVideo(3 * FRAMES, seed=seed)
    # in float32 a last bit, which depends on the processor, can turn a choice between random masks
    (found,) = answers(folders[weights], video, TEXTS[0], dtype="float64")
    assert found
    assert_equal(found, by_library(folders[weights], video, TEXTS[0], torch.float64))


def test_bfloat16_equals_the_library(folders: dict[Weights, str]) -> None:
    weights, seed = CASES[0]
    video = ArrayVideo(FRAMES, seed=seed)
    (found,) = answers(folders[weights], video, TEXTS[2], dtype="bfloat16")
    assert found
    assert_equal(found, by_library(folders[weights], video, TEXTS[2], torch.bfloat16))


def test_without_look_ahead_masks_come_frame_by_frame(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, CASES[0][0], hotstart_delay=0)
    video = ArrayVideo(FRAMES, seed=2)
    (found,) = answers(folder, video, TEXTS[2])
    assert found
    assert_equal(found, by_library(folder, video, TEXTS[2]))


def test_texts_that_cannot_be_read_are_refused_in_one_line(folders: dict[Weights, str]) -> None:
    asked = ["red car", " ", "a\ud800", "red car " * 20]
    read = language(ReadConfig(model=folders[CASES[0][0]])).read(
        ArrayVideo(1), {key: Question(text, (0,)) for key, text in enumerate(asked)}, {}
    )
    first = read[0]
    assert not isinstance(first, InputError)
    assert (tuple(first.seg.shape), first.tak, first.answer) == ((0, 1), None, None)
    assert "empty instruction text; expected a noun phrase" in str(read[1])
    assert "not valid Unicode" in str(read[2])
    assert "instruction too long: 42 tokens, SAM 3 takes 32" in str(read[3])


def test_other_ways_of_tracking_are_refused(folders: dict[Weights, str]) -> None:
    folder = folders[CASES[0][0]]
    with pytest.raises(ValueError, match="expected text"):
        tracker(TrackConfig(model=folder, start="keyframe"))
    with pytest.raises(ValueError, match="expected forward"):
        tracker(TrackConfig(model=folder, directions="both"))
    own = tracker(TrackConfig(model=folder))
    with pytest.raises(ValueError, match="no candidates"):
        own.candidates(own.open(ArrayVideo(1)), {})
    with pytest.raises(CheckpointError, match="has no part clip"):
        load(open_bundle(folder), "clip", "cpu", torch.float32)


def test_the_kernels_keep_the_best_of_overlapping_detections_and_measure_regions() -> None:
    ious = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.6], [0.0, 0.6, 1.0]])
    assert Kernels.generic_nms(ious, torch.tensor([0.5, 0.9, 0.7]), 0.5, use_iou_matrix=True).tolist() == [1]
    assert Kernels.generic_nms(ious, torch.tensor([0.9, 0.5, 0.7]), 0.5, use_iou_matrix=True).tolist() == [0, 2]
    assert Kernels.generic_nms(ious, torch.tensor([0.9, 0.5, 0.7]), 0.6, use_iou_matrix=True).tolist() == [0, 2, 1]
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.uint8)
    labels, areas = Kernels.cc_2d(torch.stack([mask, 1 - mask])[:, None], get_counts=True)
    assert areas.shape == labels.shape == (2, 1, 4, 4)
    assert areas[0, 0].tolist() == [[2, 0, 0, 2], [0, 2, 0, 2], [0, 0, 0, 0], [3, 3, 3, 0]]
    assert areas[1, 0][mask == 0].tolist() == [9] * 9
    assert len(set(labels[0].flatten().tolist())) == 4


def test_the_hole_area_of_the_settings_replaces_the_models_own(folders: dict[Weights, str]) -> None:
    folder = folders[CASES[0][0]]
    for given, expected in ((None, 4), (16, 4), (0, 0), (30, 30)):  # 16 is the family's published value
        own: Any = tracker(TrackConfig(model=folder, hole_area=given))
        steps: list[list[TrackedObject]] = list(own.track(own.open(ArrayVideo(2)), requests(TEXTS[2])))
        assert own.network.model.fill_hole_area == expected
        assert all(steps)
