"""Judgements: one part each, whole or not at all, the latest of a judge counts, and what is chosen by them."""

from __future__ import annotations

import datetime
import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.label_runs import vrshq
from tests.support.made_runs import Made, box, make_run
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.tables.reviews import ByOutcome, ReviewError, Reviews, Verdict, outcome_of
from vrshq.pipelines.label.tables.schema import REVIEWS

KEYS = [("a.mp4", "0"), ("a.mp4", "1"), ("b.mp4", "0")]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = [Made("one", [box(3, 40, 60)]), Made("two", [box(3, 40, 60)])]
    return make_run(str(tmp_path / "run"), {"a.mp4": ("/gone/a.mp4", made), "b.mp4": ("/gone/b.mp4", made[:1])})


def part(number: int) -> str:
    return f"{number:032x}"


def test_a_judgement_is_one_file_with_the_declared_schema(run: RunDirectory, tmp_path: Path) -> None:
    stored = Reviews(run).add(part(1), KEYS[0], " ann ", "accept", "fine")
    (file,) = (tmp_path / "run" / "reviews").iterdir()
    assert pq.read_schema(file).equals(REVIEWS)
    (row,) = pq.read_table(file).to_pylist()
    assert row == {
        "video_id": "a.mp4",
        "instruction_id": "0",
        "judge": "ann",
        "verdict": "accept",
        "comment": "fine",
        "at": stored.at,
    }
    assert abs((datetime.datetime.now(datetime.UTC) - stored.at).total_seconds()) < 60


def test_the_same_judgement_twice_is_stored_once_and_the_first_one_stays(run: RunDirectory) -> None:
    reviews = Reviews(run)
    first = reviews.add(part(1), KEYS[0], "ann", "accept")
    assert reviews.add(part(1), KEYS[0], "ann", "reject") == first
    assert Reviews(run).add(part(1), KEYS[0], "ann", "unsure") == first  # after a restart
    assert len(run.folder.list("reviews")) == 1


def test_the_latest_of_each_judge_counts_even_where_the_clock_goes_back(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews = Reviews(run)
    first = reviews.add(part(9), KEYS[0], "ann", "reject")

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, _tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override] # a plain one
            return first.at - datetime.timedelta(hours=1)

    monkeypatch.setattr("vrshq.pipelines.label.tables.reviews.datetime.datetime", Earlier)
    reviews.add(part(1), KEYS[0], "ann", "accept")
    monkeypatch.undo()
    for seen in (reviews, Reviews(run)):
        assert seen.outcome(KEYS[0]) == "accepted"
        assert len(seen.latest[KEYS[0]]) == 1


def test_judges_of_two_apps_see_each_other_after_a_refresh(run: RunDirectory) -> None:
    one, other = Reviews(run), Reviews(run)
    one.add(part(1), KEYS[0], "ann", "accept")
    other.add(part(2), KEYS[0], "bob", "reject")
    assert (one.outcome(KEYS[0]), other.outcome(KEYS[0])) == ("accepted", "rejected")
    one.refresh()
    other.refresh()
    assert one.latest == other.latest
    assert one.outcome(KEYS[0]) == "rejected"


def test_many_threads_lose_and_double_nothing(run: RunDirectory) -> None:
    reviews = Reviews(run)

    def judge(name: str) -> None:
        for number in range(20):
            reviews.add(part(hash(name) % 2**60 * 100 + number), KEYS[number % 3], name, "accept", str(number))

    threads = [threading.Thread(target=judge, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = run.folder.list("reviews")
    rows = pa.concat_tables([pq.read_table(pa.BufferReader(run.folder.read_bytes(name))) for name in names]).to_pylist()
    assert sorted((row["judge"], int(row["comment"])) for row in rows) == [
        (name, number) for name in ("ann", "bob", "eve") for number in range(20)
    ]
    assert {row.comment for row in Reviews(run).latest[KEYS[0]].values()} == {"18"}


def test_foreign_files_in_the_folder_are_left_alone(run: RunDirectory) -> None:
    for name in ("reviews/notes.txt", "reviews/part-x.parquet", "reviews/deep/part-00.parquet"):
        run.folder.write_bytes(name, b"something else")
    assert Reviews(run).latest == {}


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ([], "unjudged"),
        (["accept", "accept"], "accepted"),
        (["accept", "unsure"], "unsure"),
        (["accept", "unsure", "reject"], "rejected"),
    ],
)
def test_one_reject_rejects_and_one_unsure_leaves_it_unsure(verdicts: list[Verdict], outcome: str) -> None:
    assert outcome_of(verdicts) == outcome


@pytest.fixture
def judged(run: RunDirectory) -> RunDirectory:
    """The first instruction is accepted, the second rejected, the third not judged."""
    reviews = Reviews(run)
    reviews.add(part(1), KEYS[0], "ann", "accept")
    reviews.add(part(2), KEYS[1], "ann", "reject")
    return run


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], ["a.mp4/0", "a.mp4/1", "b.mp4/0"]),
        (["--only", "accepted"], ["a.mp4/0"]),
        (["--not", "rejected"], ["a.mp4/0", "b.mp4/0"]),
        (["--only", "unjudged"], ["b.mp4/0"]),
        (["--only", "rejected", "--not", "rejected"], []),
    ],
)
def test_an_export_has_the_chosen_instructions_alone(
    judged: RunDirectory, tmp_path: Path, options: list[str], kept: list[str]
) -> None:
    output = tmp_path / "out"
    done = vrshq("export", judged.uri, "--format", "png-tree", "--output", str(output), *options)
    assert done.returncode == 0, done.stderr
    found = {path.parent.relative_to(output).as_posix().removeprefix("Annotations/") for path in output.rglob("*.png")}
    assert sorted(found) == kept
    about = json.loads((output / "export.json").read_text())
    assert sum(about["written"].values()) == len(kept)
    assert about["left_out"] == []
    said = f"{' '.join(options)}: the other instructions are left out, and not listed"
    assert (said in about["notes"]) == bool(options)


@pytest.mark.parametrize(
    "name", ["coco-rle", "ytvis-json", "cvat", "davis-official", "mevis-zip", "revos-json", "fiftyone"]
)
def test_every_kind_of_export_takes_the_choice(judged: RunDirectory, tmp_path: Path, name: str) -> None:
    whole = export(judged.uri, name, str(tmp_path / "whole"))
    chosen = export(judged.uri, name, str(tmp_path / "chosen"), judged=ByOutcome(only="accepted"))
    assert (whole.written["ok"], chosen.written["ok"]) == (3, 1)


def test_a_choice_in_a_run_that_nobody_has_judged_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="nobody has judged this run"):
        export(run.uri, "png-tree", str(tmp_path / "out"), judged=ByOutcome(only="accepted"))
    assert not (tmp_path / "out").exists()
    assert (
        vrshq("export", run.uri, "--format", "png", "--output", str(tmp_path / "o"), "--only", "liked").returncode == 1
    )
