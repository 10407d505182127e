"""Promise of `scores.json`: it and the page state what others need to compute the same numbers."""

from __future__ import annotations

import hashlib
import json
import shlex
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.pipelines.evaluate.test_evaluate import write_pngs
from tests.support import dataset_fixtures as fixtures
from tests.support.label_runs import vrshq
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.models.bundle import open_bundle
from vrshq.pipelines.evaluate.datasets import benchmark_names
from vrshq.pipelines.evaluate.protocols import PROTOCOLS
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TRACKS


def test_the_command_states_itself_its_questions_frames_model_and_tracker(tmp_path: Path) -> None:
    root, output = tmp_path / "a root", tmp_path / "out"
    fixtures.write_revos(root, videos={"one": fixtures.make_clip(1)})
    words = ["evaluate", "revos", "--root", str(root), "--output", str(output), "--model", "untrained-tiny", "--no-ray"]
    done = vrshq(*words, "--set", "sampling.max_image_token=3")
    assert done.returncode == 0, done.stderr
    found = json.loads((output / "scores.json").read_text())["reproduce"]
    assert shlex.split(found["command"]) == ["vrshq", *words, "--set", "sampling.max_image_token=3"]
    assert found["questions"] == {
        "file": "meta_expressions_valid_.json",
        "sha256": hashlib.sha256((root / "meta_expressions_valid_.json").read_bytes()).hexdigest(),
        "split": "valid",
        "videos": 1,
        "expressions": 3,
    }
    assert (found["truth"], found["frames"]["count"], found["objects"]) == ("mask_dict.json", 12, "first")
    model = found["model"]
    assert model["fingerprint"] == open_bundle("untrained-tiny").fingerprint
    assert (model["given"], model["tracker"]) == ("untrained-tiny", "SAM 2.0")
    assert (model["packages"]["sam2"], model["packages"]["torch"]) == (version("sam2"), version("torch"))
    assert model["settings"]["sampling"]["max_image_token"] == 3
    sampled = (
        RunDirectory(str(output))
        .reader("tracks", TRACKS)
        .read(columns=["sampled_frames"])["sampled_frames"]
        .to_pylist()
    )
    assert model["frames_seen"]["most"] == max(map(len, sampled)) <= 3
    assert model["frames_seen"]["mean"] == np.mean([len(frames) for frames in sampled])
    page = (output / "scores.html").read_text()
    for told in (model["fingerprint"], found["questions"]["sha256"], "2 decimals", "scores 0", "SAM 2.0", "a root"):
        assert told in page


def test_masks_from_files_name_no_model_and_the_protocols_own_rules(tmp_path: Path) -> None:
    truth = fixtures.write_long_rvos(tmp_path / "data")
    predictions = write_pngs(tmp_path / "pred", tmp_path / "data", "long-rvos", truth)
    done = evaluate(
        "long-rvos", str(tmp_path / "data"), str(tmp_path / "out"), predictions=str(predictions), use_ray=False
    )
    assert done.scores is not None
    found = done.scores["reproduce"]
    assert (found["model"], found["command"]) == (None, None)
    assert (found["questions"]["file"], found["truth"]) == ("valid/meta_expressions.json", "valid/Annotations")
    assert found["missing"].startswith("a frame without a mask counts as empty; ")
    assert "mean over all expressions of a known type" in found["averages"]


def test_every_protocol_tells_its_rules_and_those_that_differ_tell_them_apart() -> None:
    told = {
        name: (one.frames_in_words(), one.averages_in_words(), one.missing_in_words())
        for name, one in PROTOCOLS.items()
    }
    assert told.keys() == set(benchmark_names())
    for name in ("revos", "ref-davis17-official", "reasonvos", "long-rvos"):
        assert list(told.values()).count(told[name]) == 1
    assert "first and last" in told["ref-davis17-official"][0]
    assert "only the last" in told["reasonvos"][1]


def test_a_run_of_an_older_version_is_scored_and_says_what_it_did_not_record(tmp_path: Path) -> None:
    root, output = str(tmp_path / "data"), tmp_path / "run"
    fixtures.write_revos(Path(root), videos={"one": fixtures.make_clip(1)})
    evaluate("revos", root, str(output), Settings(model="untrained-tiny"), use_ray=False)
    begun = json.loads((output / "run.json").read_text())
    begun["details"] = {"version": "0.1.0", "model": "untrained-tiny"}
    (output / "run.json").write_text(json.dumps(begun))
    done = evaluate("revos", root, str(tmp_path / "again"), predictions=str(output), use_ray=False)
    assert done.scores is not None
    assert done.scores["reproduce"]["model"]["packages"] == {"vrshq": "0.1.0"}
    assert "not recorded by the version that labelled" in (tmp_path / "again" / "scores.md").read_text()
