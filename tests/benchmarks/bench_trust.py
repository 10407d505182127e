"""Which signal of trust tells a bad mask: AUROC of each for "J < 0.5" on synthetic videos, and what the signals cost.

    python -m tests.benchmarks.bench_trust --videos 50 --seed 3

Makes the videos (split `test`), labels them with `--model` in this process, scores them against the exact masks, and compares
the columns of `tracks/` with J. Only instructions with a target count. An area under the curve of 0.5 is chance; the interval
is that of 1,000 draws of whole videos. `combined` is a logistic regression on all signals and presence; each video is judged by
one that was fitted on the others. A missing signal (an answer without a mask) counts as the least trusted; the column "with a
mask" leaves such answers out. `--folder` keeps the videos and the run for the next call.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import EncodedMask
from vrshq.operators.masks.trust import NAMES, trust
from vrshq.pipelines.evaluate.presence import auroc
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.doubt import LOW
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where

BAD = 50.0  # J in percent
DRAWS = 1_000
SIGNALS = ("presence", *NAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trust-") as scratch:
        folder = options.folder or Path(scratch)
        data, run = str(folder / "videos"), str(folder / "run")
        synth(data, videos=options.videos, seed=options.seed, split="test", form="mp4", where=Where(use_ray=False))
        found = evaluate("revos", data, run, Settings(model=options.model), split="test", use_ray=False)
        if found.scores is None:
            raise SystemExit(found.note)
        print_table(run)
        print_cost(run)


def print_table(run: str) -> None:
    scores = pq.read_table(f"{run}/scores.parquet", columns=["video_id", "expression_id", "J_fixed", "truth_frames"])
    columns = ["video_id", "instruction_id", "status", *SIGNALS]
    tracks = {
        (row["video_id"], row["instruction_id"]): row
        for row in RunDirectory(run).read("tracks", TRACKS, columns).to_pylist()
    }
    rows = [
        tracks[row["video_id"], row["expression_id"]] | row
        for row in scores.to_pylist()
        if row["truth_frames"] and row["J_fixed"] is not None
    ]
    bad = np.array([row["J_fixed"] < BAD for row in rows])
    shown = np.array([row["status"] == "ok" for row in rows])
    videos = np.unique([row["video_id"] for row in rows], return_inverse=True)[1]
    values = {name: np.array([suspicion(row, name) for row in rows]) for name in SIGNALS}
    values["combined"] = combined(np.stack(list(values.values()), 1), bad, videos)
    print(f"{len(rows)} instructions with a target on {videos.max() + 1} videos, {bad.sum()} of them with J < 0.5, ")
    print(f"{shown.sum()} with a mask, {(bad & shown).sum()} of those with J < 0.5\n")
    print("| signal | AUROC | 95 % interval | with a mask | 95 % interval |\n| --- | --- | --- | --- | --- |")
    for name, value in sorted(values.items(), key=lambda item: -auroc(bad, item[1])):
        cells = [f"{part:.3f}" for part in (auroc(bad, value), auroc(bad[shown], value[shown]))]
        spans = [interval(bad, value, videos), interval(bad[shown], value[shown], videos[shown])]
        print(f"| `{name}` | {cells[0]} | {spans[0]} | {cells[1]} | {spans[1]} |")


def suspicion(row: dict[str, float | None], name: str) -> float:
    """The signal so that more means less trust; a missing one is above all others."""
    value = row[name]
    return 1e3 if value is None else -value if name in LOW else value


def combined(features: np.ndarray, bad: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """The log odds of a bad mask for each row, by a regression on the other videos' rows; missing values are a feature each."""
    missing = features == 1e3
    kept = np.where(missing, np.nan, features)
    filled = np.where(missing, np.nanmean(kept, 0), kept)
    columns = np.concatenate([(filled - filled.mean(0)) / (filled.std(0) + 1e-9), missing, np.ones((len(bad), 1))], 1)
    odds = np.zeros(len(bad))
    for video in np.unique(videos):
        held = videos == video
        odds[held] = columns[held] @ fitted(columns[~held], bad[~held])
    return odds


def fitted(columns: np.ndarray, bad: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Weights of a logistic regression with a ridge penalty, by Newton's method."""
    weights = np.zeros(columns.shape[1])
    penalty = np.full(len(weights), ridge)
    penalty[-1] = 0  # the constant
    for _ in range(30):
        chance = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (chance - bad) + penalty * weights
        curve = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.diag(penalty + 1e-9)
        weights = weights - np.linalg.solve(curve, slope)
    return weights


def interval(bad: np.ndarray, values: np.ndarray, videos: np.ndarray) -> str:
    """The middle 95 % of the AUROC over draws of whole videos."""
    draw = np.random.default_rng(0)
    places = [np.flatnonzero(videos == video) for video in np.unique(videos)]
    found = []
    for _ in range(DRAWS):
        chosen = np.concatenate([places[place] for place in draw.integers(0, len(places), len(places))])
        if bad[chosen].any() and not bad[chosen].all():
            found.append(auroc(bad[chosen], values[chosen]))
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{low:.3f} to {high:.3f}"


def print_cost(run: str) -> None:
    """Processor seconds of the signals for 1,000 masks, against the seconds that the run's stages took."""
    opened = RunDirectory(run)
    rows = opened.read("masks", MASKS).to_pylist()
    answers: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        answers.setdefault((row["video_id"], row["instruction_id"]), []).append(row)
    tracks = [
        (
            [EncodedMask(row["rle"], row["area"], tuple(row["bbox"])) for row in found],  # type: ignore[arg-type]
            [row["object_score"] for row in found],
            (found[0]["height"], found[0]["width"]),
        )
        for found in answers.values()
    ]
    begin = time.process_time()
    for masks, scores, (height, width) in tracks:
        trust(masks, scores, height, width)  # type: ignore[arg-type]
    spent = time.process_time() - begin
    units = {
        (row["video_id"], str(row["seconds"])): sum(filter(None, row["seconds"].values()))
        for row in opened.read("tracks", TRACKS, ["video_id", "seconds"]).to_pylist()
        if row["seconds"]
    }
    whole = sum(units.values())
    print(f"\n{len(rows)} masks: the signals take {1000 * spent / len(rows) * 1000:.1f} ms for 1,000 masks,", end=" ")
    print(f"{100 * spent / whole:.2f} % of the {whole:.0f} s of the run's stages")


if __name__ == "__main__":
    main()
