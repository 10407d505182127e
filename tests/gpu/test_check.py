"""`python -m tests.gpu.check --dry` runs every check on a CPU; a failing check makes exit code 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.check import CHECKS, main
from tests.gpu.context import Context, Result

QUICK = ["machine", "segmenter", "language", "clip", "memory_drill", "costs"]
KEYS = {"check", "seconds", "verdict", "said", "values"}


def run(path: Path, *arguments: str, **checks: Any) -> tuple[int, dict[str, Any]]:
    code = main(["--dry", "--output", str(path), *arguments], checks or CHECKS)
    return code, json.loads(path.read_text())


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    assert all(set(one) == KEYS for one in found["checks"])
    return {one["check"]: one["verdict"] for one in found["checks"]}


def test_the_quick_checks_run_on_a_cpu(tmp_path: Path) -> None:
    code, found = run(tmp_path / "found.json", "--only", *QUICK)
    assert (code, found["failed"]) == (0, [])
    assert set(found) == {"device", "dry", "torch", "checks", "failed"}
    expected = {"machine": "not here", "language": "PASS", "memory_drill": "PASS"}
    assert verdicts(found) == {name: expected.get(name, "number") for name in QUICK}
    values = {one["check"]: one["values"] for one in found["checks"]}
    assert {"encode_8_ms", "decode_prompt_16_ms", "track_16_ms", "track_kernels", "backends"} <= set(
        values["segmenter"]
    )
    assert {"load_s", "prefix_ms", "suffix_16_ms", "cosine"} <= set(values["language"])
    assert max(values["memory_drill"]["sizes"]) == 2


@pytest.mark.ray
@pytest.mark.long
def test_all_checks_run_on_a_cpu(tmp_path: Path) -> None:
    code, found = run(tmp_path / "found.json")
    assert (code, found["failed"]) == (0, [])
    assert list(verdicts(found)) == list(CHECKS)
    assert verdicts(found)["cpu_run"] == "not here"


def test_a_failing_check_makes_exit_code_1_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Context) -> Result:
        raise RuntimeError("the GPU has fallen\noff the bus")

    code, found = run(
        tmp_path / "found.json",
        broken=broken,
        wrong=lambda _: Result.of(False, "7 is not 8", measured=7),
        right=lambda _: Result.of(True, "as it should be"),
    )
    assert code == 1
    assert found["failed"] == ["broken", "wrong"]
    assert [one["said"] for one in found["checks"]] == [
        "RuntimeError: the GPU has fallen off the bus",
        "7 is not 8",
        "as it should be",
    ]
    assert "1 of 3 checks without a failure; failed: ['broken', 'wrong']" in capsys.readouterr().out


def test_without_a_gpu_only_a_dry_run_is_possible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([]) == 1
    assert "no GPU here; expected one, or --dry" in capsys.readouterr().err
