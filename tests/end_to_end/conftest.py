"""A small corpus and its run by the for-loop, the reference of the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support import clips
from tests.support.label_runs import instruction, write_table
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

FRAMES = 6
SETTINGS = Settings(model="untrained-tiny", max_instructions_per_unit=2)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos (H.264, MPEG-4 in AVI, a folder of frames) with seven instructions."""
    folder = tmp_path_factory.mktemp("corpus")
    clips.h264(folder / "one.mp4", frames=FRAMES)
    clips.encode(folder / "two.avi", "mpeg4", frames=FRAMES, bf=2)
    (folder / "three").mkdir()
    for number in range(FRAMES):
        Image.fromarray(clips.code_frame(number)).save(folder / "three" / f"{number:05d}.png")
    write_table(
        folder / "instructions.jsonl",
        [
            instruction("one.mp4", 0, "the dark block", source="a", rank=1),
            instruction("one.mp4", 1, "Which block is bright?", source="b", rank=2),
            instruction("one.mp4", 2, "the elephant", source="c", rank=3),
            instruction("two.avi", 0, "the block that changes first", source="d", rank=None),
            instruction("two.avi", 1, "every block", source="e", rank=5),
            instruction("three", 0, "the last block", source="f", rank=6),
            instruction("three", 1, "the first block", source="g", rank=7),
        ],
    )
    return folder


@pytest.fixture(scope="session")
def loop_run(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run directory of the for-loop over the corpus. Every other way of running must equal it."""
    output = str(tmp_path_factory.mktemp("loop") / "run")
    summary = label(str(small_corpus / "instructions.jsonl"), output, SETTINGS, use_ray=False)
    assert (summary.counts["errors"], summary.incomplete) == (0, 0)
    return output
