"""A run in a bucket makes the requests that the plan counts: through a proxy in front of a real S3 server."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import s3fs

from tests.support import clips
from tests.support.faulty_proxy import FaultyProxy
from tests.support.label_runs import instruction, vrshq, write_table
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.pipelines.label.planning.bill import PARTS, VIDEO_READS, Bill, bill_of
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

SETTINGS = Settings(model="untrained-tiny", max_instructions_per_unit=1)
BUCKET = f"s3://{S3_BUCKET}/bill"


def rows(videos: int) -> list[dict[str, Any]]:
    """Two instructions on each of some videos, each a unit."""
    return [instruction(f"{BUCKET}/{number}.mp4", name, "block") for number in range(videos) for name in "xy"]


def requests(table: str, run: str) -> Counter[str]:
    """What a run of the table asks of the store, by method and first folder."""
    with (
        FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        s3fs.S3FileSystem.clear_instance_cache()
        assert label(table, run, SETTINGS, use_ray=False).counts["errors"] == 0
    s3fs.S3FileSystem.clear_instance_cache()
    found: Counter[str] = Counter()
    for (method, path), count in proxy.counts.items():
        inside = path.removeprefix(f"/{run.removeprefix('s3://')}/")
        found[f"{method} {'video' if path.endswith('.mp4') else inside.partition('/')[0]}"] += count
    return found


def test_each_unit_and_each_video_makes_the_requests_that_the_plan_counts(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server, server.reached():
        served = tmp_path / "s3" / S3_BUCKET / "bill"
        served.mkdir()
        for number in range(3):
            clips.h264(served / f"{number}.mp4", frames=3)
        few, many = (
            requests(write_table(tmp_path / f"{videos}.jsonl", rows(videos)), f"s3://{S3_BUCKET}/run-{videos}")
            for videos in (1, 3)
        )
    more = many - few
    parts = ("masks", "tracks", "tokens")
    assert sum(more[f"PUT {name}"] for name in parts) == PARTS * 4, "four more units"
    assert sum(more[f"GET {name}"] for name in parts) == PARTS * 4, "they are merged"
    assert more["GET video"] + more["HEAD video"] == VIDEO_READS * 2, "two more videos, each of two units"
    assert sum(more.values()) <= PARTS * 4 * 2 + VIDEO_READS * 2 + 4 + 4, (
        "an error part is removed for each; some noise"
    )


def test_the_plan_states_the_bill_of_a_bucket_and_of_no_local_folder(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.jsonl", rows(5))
    assert bill_of(make_plan(table, str(tmp_path / "run"), SETTINGS)) is None
    bill = bill_of(make_plan(table, "memory://bill/run", SETTINGS))
    assert bill == Bill(writes=30, reads=30 + 10, nbytes=10 * 100 * 300)  # no length is known: 100 frames
    assert bill.dollars == pytest.approx(30 * 5e-6 + 40 * 4e-7)
    done = vrshq("plan", table, "--output", "memory://bill/run", "--model", "untrained-tiny")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        "storage about 15 writes and 25 reads of objects, $8.5e-05 at S3's prices; 300 kB of tables, $6.9e-06 a" in said
    )
