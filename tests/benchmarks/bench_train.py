"""How fast a stage trains: `python -m tests.benchmarks.bench_train [CONFIG] [STEPS]`, one core, no Ray.

Prints for each stage of a configuration the CPU time of making a sample and of training on it, and the steps of an hour.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from tests.support.paths import CONFIGS
from vrshq.operators.training.start import build, prepare_start
from vrshq.operators.training.step import StageTrainer
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import load_train_settings

DEFAULT = CONFIGS / "tiny.yaml"


def main(config: str, steps: int) -> None:
    torch.set_num_threads(1)
    settings = load_train_settings(config, [])
    with tempfile.TemporaryDirectory() as scratch:
        start = prepare_start(settings.start, settings.seed, Path(scratch))
        model = build(settings.start, start, settings.seed, "cpu")
        millions = sum(value.numel() for value in [*model.language.parameters(), *model.segmenter.parameters()]) / 1e6
        print(f"{config}: {millions:.2f} M parameters in the bundle, without the pre-sampling CLIP")
        for number, stage in enumerate(settings.stages):
            begin = time.process_time()
            clips = [open_mixture(stage, number).sample(sample) for sample in range(steps + 1)]
            making = (time.process_time() - begin) / len(clips)
            trainer = StageTrainer(model, replace(stage, batch=1, steps=steps + 1), settings.seed)
            trainer.run_step(clips[:1])
            begin = time.process_time()
            for clip in clips[1:]:
                trainer.run_step([clip])
            taken = (time.process_time() - begin) / steps
            per_hour = 3600 / (stage.batch * (making + taken))
            print(
                f"{stage.name:<12} make {making:.3f} s  train {taken:.3f} s a sample  "
                f"{per_hour:.0f} steps of {stage.batch} an hour and core; {stage.steps} steps: {stage.steps / per_hour:.1f} h"
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
