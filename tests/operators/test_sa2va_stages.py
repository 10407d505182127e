"""Sa2VA through the stages: the reference's answer and masks, work that is shared, and each other way of tracking."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.sa2va_tiny import ANSWERS, MODEL, QUESTIONS, case, case_video, counted_calls, stages
from vrshq.operators.batch import Unit, run_operators
from vrshq.operators.masks import rle
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.sa2va import family as sa2va
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.values import Memory
from vrshq.operators.models.shared import shared_network
from vrshq.operators.video.sampling import spread
from vrshq.pipelines.config.assignments import SettingsError

MASK_MARGIN = 0.005  # masks may differ where the own logit is this near to 0 (section 8 of the kit's README)


def answered(video: ArrayVideo, texts: list[str], *, model: str = MODEL, **settings: Any) -> Unit:
    """The unit's columns after all stages; no instruction may have failed."""
    batch = run_operators(stages(model, **settings), unit_batch(video, texts))
    unit = {column: values[0] for column, values in batch.items()}
    assert not any(unit["errors"]), unit["errors"]
    return unit


def test_sa2va_distilled_case_parity() -> None:
    """The stages give the answer, the embeddings and the masks of the reference."""
    found, frames = case("q3"), len(case("q3")["frames"])
    unit = answered(case_video("q3"), [QUESTIONS["q3"]])
    assert unit["answers"] == [ANSWERS["q3"]]
    assert unit["num_objects"] == [2]
    assert unit["sampled_frames"] == [[0, 1, 2, 3, 4]]
    assert unit["tak"] == [[]]
    assert unit["similarities"] == [[]]
    assert unit["keyframes"] == [None]
    assert np.abs(np.array(unit["seg"][0]).reshape(2, -1) - found["seg_embed"]).max() <= 1e-4
    height, width = found["orig_hw"].tolist()
    for number in range(2):
        bits = np.unpackbits(found[f"seg{number}/final_masks_packed"], axis=1)[:, : height * width]
        masks = np.stack([rle.decode(code, height, width) for code in unit["rles"][0][number]])
        assert masks.shape == (frames, height, width)
        assert (masks.reshape(frames, -1) != bits).sum() <= 20
        assert masks.any()
    assert [len(scores) for scores in unit["object_scores"][0]] == [5, 5]
    assert unit["presence"][0] == pytest.approx(1 / (1 + np.exp(-np.max(unit["object_scores"][0]))))


@pytest.mark.parametrize("count", [1, 5, pytest.param(20, marks=pytest.mark.long)])
def test_sa2va_work_is_shared_by_all_instructions_and_objects(count: int) -> None:
    """The reference encodes each frame for each [SEG], and runs vision tower and prefix for each instruction."""
    total, prompted = 9, 5
    texts = [f"number {number} " + "[SEG] " * (1 + number % 3) for number in range(count)]
    with counted_calls() as calls:
        unit = answered(ArrayVideo(total), texts, prompt={"wording": "as_is", "max_new_tokens": 4})
    objects = sum(unit["num_objects"])
    assert objects >= sum(1 + number % 3 for number in range(count))
    assert (calls.sam2, calls.vision, calls.prefixes) == (total, prompted, 1)
    assert unit["features"].encoder_calls == total
    reference = {"sam2": objects * (prompted + total), "vision": count * prompted, "prefixes": count}
    print(f"E = {count}, {objects} objects: {calls}; the reference: {reference}")
    assert all(len(row) == total and all(row) for masks in unit["rles"] for row in masks)


def test_sa2va_answer_without_seg_has_no_object_and_empty_masks_parity() -> None:
    video = case_video("q2")
    with counted_calls() as calls:
        unit = answered(video, [QUESTIONS["q2"]])
    assert unit["answers"] == [ANSWERS["q2"]]
    assert unit["num_objects"] == [0]
    assert unit["presence"] == [None]
    assert unit["object_scores"] == [[]]
    assert calls.sam2 == 0
    assert unit["areas"] == [[[0] * 3]]
    assert all(not rle.decode(code, video.height, video.width).any() for code in unit["rles"][0][0])


def test_sa2va_instructions_do_not_change_each_other() -> None:
    texts = ["a [SEG]", "the other [SEG] and [SEG]", "the ball"]
    video = ArrayVideo(9)
    together = answered(video, texts)
    for position, text in enumerate(texts):
        alone = answered(video, [text])
        assert alone["answers"] == [together["answers"][position]]
        for one, other in zip(alone["rles"][0], together["rles"][position], strict=True):
            masks = [np.stack([rle.decode(code, 40, 64) for code in codes]) for codes in (one, other)]
            assert (masks[0] != masks[1]).mean() < 1e-3


def test_sa2va_refused_texts_cost_their_own_instruction() -> None:
    batch = run_operators(stages(), unit_batch(ArrayVideo(3), [" ", "\ud800", "the ball"]))
    messages = [error and error["message"] for error in batch["errors"][0]]
    assert messages[0].startswith("empty instruction text")
    assert messages[1].startswith("instruction text is not valid Unicode")
    assert messages[2] is None
    batch = run_operators(stages(prompt={"max_new_tokens": 300_000}), unit_batch(ArrayVideo(3), ["the ball"]))
    assert "the model takes 262144" in batch["errors"][0][0]["message"]


@functools.lru_cache(maxsize=2)
def features_of(network: Segmenter, total: int) -> VideoFeatures:
    """The features of `ArrayVideo(total)`, which the loops of several tests look at."""
    return VideoFeatures(network, ArrayVideo(total), budget_bytes=1 << 30, batch_size=1)


class PlainLoop:
    """One object through a video, by SAM2's own rules: memories are looked up by frame number at each step."""

    def __init__(self, video: ArrayVideo, prompt: list[float], network: Segmenter | None = None) -> None:
        self.network: Segmenter = network or shared_network(MODEL, "segmenter", "cpu", "float32")
        self.features = features_of(self.network, video.num_frames)
        self.prompt, self.total = torch.tensor([prompt]), video.num_frames
        self.size = (video.height, video.width)
        self.logits: dict[int, torch.Tensor] = {}
        self.scores: dict[int, float] = {}

    @torch.inference_mode()
    def prompted(self, frame: int) -> Memory:
        decoded, memory = self.network.decode_prompted(self.features.get([frame]), self.prompt)
        self.logits[frame], self.scores[frame] = decoded.low_res, float(decoded.object_logit)
        return memory

    @torch.inference_mode()
    def track(self, prompted: dict[int, Memory], order: list[int]) -> None:
        step = 1 if order == sorted(order) else -1
        known: dict[int, Memory] = {}
        for frame in order:
            near = [(age, known.get(frame - step * age)) for age in range(1, min(self.total, 16))]
            past = [one for one in prompted if step * (frame - one) > 0]
            ahead = [one for one in prompted if one not in past]
            recent = [(age, memory.features) for age, memory in near[: self.network.num_maskmem - 1] if memory]
            decoded, known[frame] = self.network.track(
                self.features.get([frame]),
                [prompted[one] for one in (*past, *ahead)],
                [features for _, features in recent],
                [memory.pointer for _, memory in near if memory],
                ages=[age for age, _ in recent],
                ahead=len(ahead),
            )
            self.logits[frame] = decoded.low_res

    def compare(self, codes: list[bytes], pixels: int = 0) -> None:
        """The masks are equal but where the logit is near 0, and in so many pixels of all frames."""
        far = 0
        for frame, code in enumerate(codes):
            mask = rle.decode(code, *self.size).astype(bool)
            if frame not in self.logits:
                assert not mask.any()
                continue
            resized = (self.network.image_size, self.network.image_size)
            full = to_frame_size(self.logits[frame], self.network.image_size, resized, self.size)[0].numpy()
            far += int((np.abs(full[mask != (full > 0)]) >= MASK_MARGIN).sum())
        assert far <= pixels


TOTAL = 23
TWO = ["[SEG] and [SEG]"]
SHORT = {"wording": "as_is", "max_new_tokens": 2}


def test_sa2va_frames_spread_over_the_video_equal_a_plain_loop() -> None:
    """All prompted frames are seen from every other one, those ahead without their pointers."""
    video = ArrayVideo(TOTAL)
    unit = answered(video, TWO, sampling={"sampler": "spread"}, prompt=SHORT)
    assert unit["sampled_frames"] == [[0, 5, 11, 16, 22]] == [spread(TOTAL, 5)]
    for number, prompt in enumerate(unit["prompts"][0]):
        loop = PlainLoop(video, prompt)
        prompted = {frame: loop.prompted(frame) for frame in spread(TOTAL, 5)}
        loop.track(prompted, [frame for frame in range(1, TOTAL) if frame not in prompted])
        loop.compare(unit["rles"][0][number])


@pytest.mark.parametrize("directions", ["forward", "both"])
def test_sa2va_keyframes_by_object_score_equal_a_plain_loop(directions: str) -> None:
    """TKS over the [SEG] candidates: there is no [TAK], so the object score alone decides."""
    video = ArrayVideo(TOTAL)
    tracking = {"start": "keyframe", "directions": directions}
    unit = answered(video, TWO, sampling={"sampler": "spread"}, tracking=tracking, prompt=SHORT)
    for number, prompt in enumerate(unit["prompts"][0]):
        loop = PlainLoop(video, prompt)
        for frame in spread(TOTAL, 5):
            loop.prompted(frame)
        keyframe = max(loop.scores, key=lambda frame: loop.scores[frame])
        assert unit["keyframes"][0][number] == keyframe
        loop.logits.clear()
        memory = {keyframe: loop.prompted(keyframe)}
        loop.track(memory, list(range(keyframe + 1, TOTAL)))
        if directions == "both":
            loop.track(memory, list(range(keyframe - 1, -1, -1)))
        loop.compare(unit["rles"][0][number])
        assert len(loop.logits) == (TOTAL if directions == "both" else TOTAL - keyframe)


@pytest.fixture(scope="module")
def with_sam2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with the file of another SAM2 beside it, as SAM2 is published."""
    folder = tmp_path_factory.mktemp("with-sam2") / "model"
    folder.mkdir()
    for file in Path(MODEL).iterdir():
        (folder / file.name).symlink_to(file)
    random = torch.Generator().manual_seed(5)
    decoder = shared_network(MODEL, "segmenter", "cpu", "float32").sam_mask_decoder.state_dict()
    changed = {
        f"sam_mask_decoder.{name}": value + 0.03 * torch.randn(value.shape, generator=random)
        for name, value in decoder.items()
    }
    (folder / "sam2").mkdir()
    torch.save({"model": {**changed, "no_mem_embed": torch.zeros(1)}}, folder / "sam2" / "sam2.pt")
    return str(folder)


@torch.inference_mode()
def test_sa2va_masks_carried_by_the_original_decoder_equal_a_plain_loop(with_sam2: str) -> None:
    """Sa2VA-i: two whole networks, one after the other, against one that holds two decoders."""
    video = ArrayVideo(TOTAL)
    with counted_calls(with_sam2) as calls:
        unit = answered(
            video,
            TWO,
            model=with_sam2,
            sampling={"sampler": "spread"},
            tracking={"decoder": "original"},
            prompt=SHORT,
        )
    assert calls.sam2 == TOTAL
    bundle = open_bundle(with_sam2)
    tuned, original = (sa2va.load(bundle, "segmenter", "cpu", torch.float32) for _ in range(2))
    assert isinstance(tuned, Segmenter)
    assert isinstance(original, Segmenter)
    state = torch.load(Path(with_sam2) / "sam2" / "sam2.pt", weights_only=True)["model"]
    original.load_state_dict({name: value for name, value in state.items() if "decoder" in name}, strict=False)
    original.gate_masks = True
    side = tuned.image_size
    for number, prompt in enumerate(unit["prompts"][0]):
        first, loop = PlainLoop(video, prompt, tuned), PlainLoop(video, prompt, original)
        prompted = {}
        for frame in spread(TOTAL, 5):
            first.prompted(frame)
            assert unit["object_scores"][0][number][spread(TOTAL, 5).index(frame)] == pytest.approx(
                first.scores[frame], abs=1e-3
            )
            full = F.interpolate(first.logits[frame][:, None], size=loop.size, mode="bilinear") > 0
            square = F.interpolate(full.float(), size=(side, side), mode="bilinear", antialias=True) >= 0.5
            features = loop.features.get([frame])
            entered = original._use_mask_as_output(features.s16, [features.s4, features.s8], square.float())
            memory = original.encode_mask(features, entered[1][:, 0].sigmoid())
            prompted[frame], loop.logits[frame] = Memory(memory, entered[5]), entered[0][:, 0]
        loop.track(prompted, [frame for frame in range(1, TOTAL) if frame not in prompted])
        # a prompted frame's logit near 0 decides about a pixel of the entered mask
        loop.compare(unit["rles"][0][number], pixels=20)
    few = ArrayVideo(6)
    one, other = (
        answered(few, TWO, model=with_sam2, sampling={"sampler": "spread"}, tracking={"decoder": name}, prompt=SHORT)
        for name in ("own", "original")
    )
    assert one["rles"] != other["rles"]


@pytest.mark.parametrize("decoder", ["own", "original"])
def test_sa2va_in_bfloat16_gives_masks(decoder: str, with_sam2: str) -> None:
    """bfloat16 is the type on GPUs; the original decoder has it, too."""
    unit = answered(
        ArrayVideo(9),
        TWO,
        model=with_sam2,
        dtype="bfloat16",
        sampling={"sampler": "spread"},
        tracking={"decoder": decoder},
        prompt=SHORT,
    )
    assert [len(masks) for masks in unit["rles"][0]] == [9, 9]
    assert any(map(any, unit["areas"][0]))


def test_sa2va_files_that_are_not_those_listed_are_refused(with_sam2: str, tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "tokenizer.json", "sam2/sam2.pt"]
    for place, name in enumerate(names):
        folder = shutil.copytree(with_sam2, tmp_path / str(place))
        description = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps(description | {"sha256": {name: "0" * 64}}))
        with pytest.raises(CheckpointError, match=f"{name}: sha256 .*, expected 0000"):
            stages(str(folder), tracking={"decoder": "original"})


def test_sa2va_without_the_original_decoder_says_what_is_expected() -> None:
    with pytest.raises(CheckpointError, match=r"sam2: 0 files with weights; .*sam2_hiera_large\.pt"):
        stages(tracking={"decoder": "original"})
    with pytest.raises(SettingsError, match="expected own for a model of the family vrs-hq"):
        stages("untrained-tiny", tracking={"decoder": "original"})
    with pytest.raises(SettingsError, match=r"sampling\.sampler grid: it needs a CLIP"):
        stages(sampling={"sampler": "grid"})
