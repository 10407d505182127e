"""What the app gives of a run: rows in any order, frames by number, masks as they are stored; judgements and agreement."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.pipelines.app.conftest import FRAMES, HOSTILE, Serve, instructions
from tests.support import clips
from tests.support.made_runs import make_run
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import decode
from vrshq.pipelines.app.agreement import agreements
from vrshq.pipelines.app.catalogue import SIGNALS
from vrshq.pipelines.label.tables.reviews import Reviews

API = "/api/runs/main"
ALL = [(video, str(place)) for video, made in instructions().items() for place in range(len(made))]


def found(client: TestClient, **query: str | float) -> list[tuple[str, str]]:
    """The instructions that a query finds, in its order."""
    answer = client.get(f"{API}/rows", params=query)
    assert answer.status_code == 200, answer.text
    return [(row["video_id"], row["instruction_id"]) for row in answer.json()["rows"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"status": "ok"}, [ALL[0], ALL[1], ALL[3], ALL[4]]),
        ({"status": "error"}, [ALL[5]]),
        ({"status": "pending"}, []),
        ({"text": "red"}, [ALL[0], ALL[3]]),
        ({"text": "red", "video": "STREET"}, [ALL[3]]),
        ({"text": "<img src=x"}, [ALL[4]]),
        ({"text": ".*"}, []),
        ({"least": 0.5}, [ALL[0], ALL[1], ALL[3], ALL[5]]),
        ({"least": 0.3, "most": 0.7}, [ALL[3], ALL[4], ALL[5]]),
        ({"sort": "presence"}, [ALL[2], ALL[4], ALL[5], ALL[3], ALL[1], ALL[0]]),
        ({"sort": "objects"}, [ALL[1], ALL[0], ALL[2], ALL[3], ALL[4], ALL[5]]),
        ({"sort": "flicker"}, [ALL[3], ALL[1], ALL[4], ALL[0], ALL[2], ALL[5]]),
        ({"sort": "empty"}, [ALL[2], ALL[3], ALL[4], ALL[0], ALL[1], ALL[5]]),
        ({"sort": "empty", "status": "ok", "offset": 1, "limit": 2}, [ALL[4], ALL[0]]),
        ({"offset": 4}, ALL[4:]),
        ({"offset": 99}, []),
    ],
)
def test_a_page_has_the_rows_that_fit_in_the_order_that_is_asked_for(
    run: str, serve: Serve, query: dict[str, str | float], expected: list[tuple[str, str]]
) -> None:
    assert found(serve(run), **query) == expected


def test_scores_of_an_evaluation_in_the_same_folder_give_an_order(run: str, serve: Serve) -> None:
    assert "score" not in serve(run).get(API).json()["sorts"]
    videos, ids = zip(*ALL, strict=True)
    scores = {"video_id": videos, "expression_id": ids, "JF": [50.0, 10.0, None, 90.0, 20.0, 0.0]}
    pq.write_table(pa.table(scores), Path(run) / "scores.parquet")
    client = serve(run)
    assert found(client, sort="score") == [ALL[5], ALL[1], ALL[4], ALL[0], ALL[3], ALL[2]]
    assert client.get(f"{API}/rows").json()["rows"][3]["score"] == 90.0


def test_an_unknown_order_or_value_is_refused_in_one_line(run: str, serve: Serve) -> None:
    client = serve(run)
    assert "expected one of presence" in client.get(f"{API}/rows", params={"sort": "__class__"}).json()["error"]
    assert client.get(f"{API}/rows", params={"outcome": "liked"}).status_code == 400
    assert client.get(f"{API}/rows", params={"least": "much"}).status_code == 422


def test_what_the_run_has_not_finished_is_pending_until_the_page_is_refreshed(run: str, serve: Serve) -> None:
    parts = sorted(
        Path(run, "tracks").glob("*.parquet"), key=lambda path: "cups" in str(pq.read_table(path)["video_id"])
    )
    away = parts[0].rename(Path(run) / "away.parquet")
    client = serve(run)
    assert client.get(API).json()["statuses"] == {"ok": 2, "empty": 1, "pending": 3}
    assert found(client, status="pending") == ALL[3:]
    about = client.get(f"{API}/instruction", params={"id_video": "street.mp4", "id_instruction": "0"}).json()
    assert (about["status"], about["text"], about["objects"]) == ("pending", "the RED car", [])
    away.rename(parts[0])
    assert client.post(f"{API}/refresh").json()["statuses"] == {"ok": 4, "empty": 1, "error": 1}


def test_an_instruction_has_its_curves_frames_and_neighbours(run: str, serve: Serve) -> None:
    query = {"id_video": "cups.mp4", "id_instruction": "1", "sort": "presence"}
    about = serve(run).get(f"{API}/instruction", params=query).json()
    assert about["answer"] == "Both."
    assert [one["object"] for one in about["objects"]] == [0, 1]
    assert about["objects"][1]["frames"] == list(range(FRAMES))
    assert about["objects"][1]["areas"] == [600] * FRAMES
    assert about["objects"][1]["scores"] == [2.0] * FRAMES
    assert about["labelled"] == {"first": 0, "last": 11, "step": 1, "count": 12}
    assert (about["place"], about["total"]) == (4, 6)
    assert about["neighbours"]["next"] == {"video_id": "cups.mp4", "instruction_id": "0"}
    assert about["neighbours"]["previous"] == {"video_id": "street.mp4", "instruction_id": "0"}
    assert about["flicker"] == 0.5
    first = serve(run).get(f"{API}/instruction", params={"id_video": "cups.mp4", "id_instruction": "0"}).json()
    assert (first["keyframe_index"], first["sampled_frames"]) == (5, [0, 5, 11])
    assert set(SIGNALS) <= first.keys()


def test_masks_are_those_of_the_run_and_no_more_than_are_asked_for(run: str, serve: Serve) -> None:
    client = serve(run)
    truth = instructions()["cups.mp4"][1].objects
    query: dict[str, str | int] = {"id_video": "cups.mp4", "id_instruction": "1", "first": 3, "last": 4}
    masks = client.get(f"{API}/masks", params=query).json()
    assert [(mask["frame"], mask["object"]) for mask in masks] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    for mask in masks:
        pixels = decode(mask["rle"].encode(), mask["height"], mask["width"])
        assert np.array_equal(pixels.astype(bool), truth[mask["object"]][mask["frame"]])
    thumbnails = client.get(f"{API}/thumbnails", params={"rows": "0,1,5,99,x"}).json()
    assert [(one["video_id"], one["instruction_id"], one["frame"], len(one["masks"])) for one in thumbnails] == [
        ("cups.mp4", "0", 5, 1),  # its keyframe
        ("cups.mp4", "1", 6, 2),  # the middle
        ("street.mp4", "2", 0, 0),
    ]


@pytest.mark.parametrize("number", [0, 7, 11])
def test_a_frame_is_the_one_of_that_number(run: str, serve: Serve, number: int) -> None:
    query: dict[str, str | int] = {"id_video": "cups.mp4", "id_instruction": "0", "number": number, "size": 100}
    answer = serve(run).get(f"{API}/frame", params=query)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert picture.shape == (60, 100, 3)
    assert clips.read_code(picture) == number


def test_what_is_not_there_is_said(run: str, serve: Serve) -> None:
    client = serve(run)
    query: dict[str, str | int] = {"id_video": "cups.mp4", "id_instruction": "0", "number": 12}
    answer = client.get(f"{API}/frame", params=query)
    assert answer.status_code == 400
    assert "frames 0 to 11" in answer.json()["error"]
    assert client.get(f"{API}/frame", params=query | {"id_instruction": "9"}).status_code == 404
    assert client.get(f"{API}/instruction", params={"id_video": "x", "id_instruction": "0"}).status_code == 404


def judge(
    client: TestClient, judge: str, key: tuple[str, str], verdict: str, part: str, comment: str = ""
) -> dict[str, Any]:
    body = {
        "video": key[0],
        "instruction": key[1],
        "judge": judge,
        "verdict": verdict,
        "part": part,
        "comment": comment,
    }
    answer: dict[str, Any] = client.post(f"{API}/reviews", json=body).json()
    return answer


def test_a_judgement_is_stored_at_once_and_found_by_its_outcome(run: str, serve: Serve) -> None:
    client = serve(run)
    answer = judge(client, "ann", ALL[0], "accept", "a" * 32, HOSTILE)
    assert answer["outcome"] == "accepted"
    (row,) = pq.read_table(Path(run, "reviews", f"part-{'a' * 32}.parquet")).to_pylist()
    assert (row["judge"], row["verdict"], row["comment"]) == ("ann", "accept", HOSTILE)
    judge(client, "bob", ALL[1], "reject", "b" * 32)
    judge(client, "ann", ALL[3], "unsure", "c" * 32)
    assert found(client, outcome="accepted") == [ALL[0]]
    assert found(client, outcome="rejected") == [ALL[1]]
    assert found(client, outcome="unsure") == [ALL[3]]
    assert found(client, outcome="unjudged") == [ALL[2], ALL[4], ALL[5]]
    judge(client, "bob", ALL[0], "reject", "d" * 32)
    assert found(client, outcome="rejected") == [ALL[0], ALL[1]]
    again = serve(run)
    assert found(again, outcome="rejected") == [ALL[0], ALL[1]]
    query = {"id_video": ALL[0][0], "id_instruction": ALL[0][1]}
    about = again.get(f"{API}/instruction", params=query).json()
    names = [one["judge"] for one in about["judgements"]]
    assert names == ["ann", "bob"]


@pytest.mark.parametrize(
    "change",
    [
        *({"verdict": "like"}, {"part": "../x"}, {"part": "A" * 32}, {"judge": ""}, {"judge": "x" * 65}),
        *({"comment": "x" * 4001}, {"video": "none"}, {"extra": 1}),
    ],
)
def test_a_judgement_with_a_wrong_value_is_refused_and_not_stored(
    run: str, serve: Serve, change: dict[str, object]
) -> None:
    body = {"video": "cups.mp4", "instruction": "0", "judge": "ann", "verdict": "accept", "part": "a" * 32} | change
    assert serve(run).post(f"{API}/reviews", json=body).status_code in (400, 404, 422)
    assert not Path(run, "reviews").exists()


def test_agreement_is_percent_and_cohens_kappa_of_the_latest_verdicts(run: str) -> None:
    reviews = Reviews(RunDirectory(run))
    assert agreements(reviews.latest) == []
    verdicts = {"ann": "aaaar", "bob": "aaarr", "eve": "aaaaa"}
    for judge_, given in verdicts.items():
        for place, letter in enumerate(given):
            reviews.add(
                f"{ord(judge_[0]):016x}{place:016x}", ALL[place], judge_, "accept" if letter == "a" else "reject"
            )
    reviews.add("f" * 32, ALL[5], "ann", "unsure")  # nobody else has judged it
    pairs = {(one.first, one.second): one for one in agreements(reviews.latest)}
    # ann and bob: 4 of 5 the same; by chance 0.8 * 0.6 + 0.2 * 0.4 = 0.56; (0.8 - 0.56) / 0.44
    assert (pairs["ann", "bob"].both, pairs["ann", "bob"].percent) == (5, 80)
    assert pairs["ann", "bob"].kappa == pytest.approx(0.24 / 0.44)
    assert pairs["ann", "eve"].kappa == pytest.approx(0)
    reviews.add("e" * 32, ALL[4], "ann", "accept")
    pairs = {(one.first, one.second): one for one in agreements(reviews.latest)}
    assert (pairs["ann", "eve"].percent, pairs["ann", "eve"].kappa) == (100, None)


def test_a_run_in_a_bucket_is_looked_through_and_judged_as_a_local_one(
    tmp_path: Path, serve: Serve, videos: Path
) -> None:
    with S3Server(tmp_path / "served") as server, server.reached():
        for name in ("cups.mp4", "street.mp4"):
            (tmp_path / "served" / S3_BUCKET / name).write_bytes((videos / name).read_bytes())
        uri = f"s3://{S3_BUCKET}/run"
        make_run(uri, {name: (f"s3://{S3_BUCKET}/{name}", made) for name, made in instructions().items()})
        client = serve(uri)
        assert found(client, sort="empty") == [ALL[2], ALL[3], ALL[4], ALL[0], ALL[1], ALL[5]]
        query = {"id_video": "cups.mp4", "id_instruction": "0"}
        picture = client.get(f"{API}/frame", params=query | {"number": 4, "size": 160})
        assert clips.read_code(np.asarray(Image.open(io.BytesIO(picture.content)))) == 4
        assert len(client.get(f"{API}/masks", params=query | {"first": 0, "last": 11}).json()) == FRAMES
        judge(client, "ann", ALL[0], "accept", "a" * 32)
        assert found(serve(uri), outcome="accepted") == [ALL[0]]


def test_a_run_without_a_finished_unit_shows_what_is_pending(run: str, serve: Serve) -> None:
    for name in ("tracks", "masks"):
        shutil.rmtree(Path(run, name))
    client = serve(run)
    assert client.get(API).json()["statuses"] == {"pending": 6}
    for sort in ("presence", "objects", "empty"):
        assert found(client, sort=sort) == ALL
    assert client.get(f"{API}/thumbnails", params={"rows": "0"}).json()[0]["masks"] == []


def test_a_video_that_is_gone_costs_its_pictures_alone(run: str, serve: Serve, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(videos / "cups.mp4", other)
    client = serve(run, other)  # street.mp4 is not there
    query: dict[str, str | int] = {"id_video": "street.mp4", "id_instruction": "0"}
    assert client.get(f"{API}/frame", params=query | {"number": 0}).status_code == 403
    assert len(client.get(f"{API}/masks", params=query | {"first": 0, "last": 11}).json()) == FRAMES
    kept: dict[str, str | int] = {"id_video": "cups.mp4", "id_instruction": "0", "number": 0}
    assert client.get(f"{API}/frame", params=kept).status_code == 200
