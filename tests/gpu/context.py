"""What the checks of `tests.gpu.check` share: the device, a model of random weights, clips, clocks, and results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from tests.gpu.random_bundle import write_random_bundle
from tests.support import clips
from tests.support.label_runs import instruction, write_table
from vrshq.operators.models.bundle import BUNDLED, open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.pipelines.label.settings import Settings

Verdict = Literal["PASS", "FAIL", "number", "not here"]


@dataclass(frozen=True)
class Result:
    """A check's outcome.

    Attributes:
        verdict: PASS and FAIL of a promise; "number" for a measurement; "not here" where the machine lacks what it needs.
        said: one line.
        values: figures for the JSON file.
    """

    verdict: Verdict
    said: str
    values: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(kept: bool, said: str, **values: Any) -> Result:
        """PASS or FAIL."""
        return Result("PASS" if kept else "FAIL", said, values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Context:
    """Where and how large the checks are.

    Attributes:
        folder: for files, removed at the end; on a GPU host in memory.
        dry: tiny sizes on a CPU.
    """

    folder: Path
    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def dtype(self) -> str:
        """The type of the speed checks."""
        return "float32" if self.dry else "bfloat16"

    @property
    def sizes(self) -> ModelConfig:
        """VRS-HQ-7B, or the parity kit's tiny sizes."""
        return open_bundle("untrained-tiny").model if self.dry else ModelConfig()

    @cached_property
    def model(self) -> str:
        """A bundle of these sizes with random weights and the tiny model's tokenizers: 15 GB for the 7B."""
        folder = self.folder / "model"
        shutil.copytree(BUNDLED / "untrained-tiny" / "clip", folder / "clip")
        shutil.copy(BUNDLED / "untrained-tiny" / "tokenizer.model", folder)
        write_random_bundle(folder, self.sizes, torch.bfloat16)
        return str(folder)

    def clip(self, frames: int) -> Path:
        """An H.264 clip of 1080p, or of a small size when dry."""
        height, width = (96, 160) if self.dry else (1080, 1920)
        path = self.folder / f"{frames}.mp4"
        return path if path.exists() else clips.h264(path, frames=frames, height=height, width=width)

    def table(self, frames: int, instructions: int, videos: int = 1) -> str:
        """An instruction table of copies of a clip."""
        rows = []
        for video in range(videos):
            copy = self.folder / f"{frames}-{video}.mp4"
            shutil.copy(self.clip(frames), copy)
            rows += [instruction(str(copy), number, f"the block {number} that moves") for number in range(instructions)]
        return write_table(self.folder / f"{frames}-{instructions}-{videos}.jsonl", rows)

    def settings(self, model: str | None = None, *, dtype: str | None = None, **resources: Any) -> Settings:
        """Settings of a run on this device."""
        resources = {"device": self.device, **resources}
        return Settings.model_validate(
            {"model": model or self.model, "dtype": dtype or self.dtype, "resources": resources}
        )

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if not self.dry:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], times: int = 5) -> float:
        """Median time of a call, after one that warms up."""
        call()
        samples = []
        for _ in range(1 if self.dry else times):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            samples.append(1000 * (time.perf_counter() - begin))
        return round(median(samples), 3)

    @contextmanager
    def peak(self) -> Iterator[dict[str, float]]:
        """A context that fills `gib` with the GPU memory that torch held at its peak; 0 without a GPU."""
        found = {"gib": 0.0}
        if not self.dry:
            torch.cuda.reset_peak_memory_stats()
        yield found
        if not self.dry:
            self.wait()
            found["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def free(self) -> None:
        """Gives back what earlier checks left on the GPU."""
        import gc

        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()
