"""Promises of `vrshq.cluster.ray.session`: what a user sees of Ray, and what is left of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.s3_server import free_port
from vrshq.cluster.ray.errors import RayFolderError
from vrshq.cluster.ray.session import ray_session

pytestmark = pytest.mark.ray

SCRIPT = """
import pyarrow as pa
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.errors import RayFolderError
from vrshq.cluster.ray.session import ray_session
from tests.support.engine_workers import Step

with ray_session(num_cpus=3, num_gpus=1, object_store_memory=100_000_000):
    for deadly in [], [2]:
        arguments = {"name": "a", "deadly": deadly}
        pools = [ActorPool(name="a", worker=Step, arguments=arguments, actors=2, num_cpus=0.5, num_gpus=0.5)]
        units = pa.table({"unit_id": ["0", "1", "2", "3"], "number": range(4)})
        answers = stream_receipts(units, pools, attempts=2)
        print(sorted(answer["number"] for answer in answers if isinstance(answer, dict)))
"""


def test_a_run_prints_only_its_own_words_and_a_line_for_each_lost_unit() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1, 2, 3]\n[0, 1, 3]\n"
    assert done.stderr == (
        "attempt 1 of unit 2 failed: its worker process died\n"
        "attempt 2 of unit 2 failed: its worker process died\n"
        "unit 2 is lost after 2 attempts: its worker process died\n"
    )


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    with pytest.raises(ConnectionError, match=f"^no Ray cluster answers at {nowhere}") as caught, ray_session():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"), [("InvalidAuthToken: ...", "refuses the token"), ("other", "no Ray cluster")]
)
def test_a_refused_token_is_one_line_without_what_ray_repeats_meanwhile(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`ray.init` stands in for one at a cluster of another token, where it takes 20 seconds and writes so from C++."""

    def refused(**_: object) -> None:
        os.write(2, f"Unauthenticated: RPC error: {words}\n".encode())
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr("ray.init", refused)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"^[^\n]*{told}[^\n]*$"), ray_session(address):
            pass
    assert capfd.readouterr().err == ""


def test_a_job_servers_address_is_refused_with_the_way_to_go() -> None:
    for address in ("http://127.0.0.1:8265", "ray://127.0.0.1:10001"):
        with pytest.raises(ConnectionError, match="vrshq submit"), ray_session(address):
            pass


def test_a_connection_that_was_there_before_is_left_alone() -> None:
    import ray

    with ray_session(num_cpus=2, object_store_memory=100_000_000):
        with ray_session():
            assert ray.cluster_resources()["CPU"] == 2
        assert ray.is_initialized()
    assert not ray.is_initialized()


ADDER = """
from vrshq.cluster.ray.session import ray_session
with ray_session(num_cpus=1, object_store_memory=100_000_000):
    import ray
    print(ray.get(ray.remote(lambda numbers: sum(numbers)).remote([1, 2])))
"""


def test_a_long_tmpdir_and_closed_streams_do_not_keep_ray_from_starting(tmp_path: Path) -> None:
    scratch = tmp_path / ("x" * 100)
    scratch.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"} | {"TMPDIR": str(scratch)}
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 0<&- 2>&-', sys.executable, ADDER],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3\n")


def test_a_ray_tmpdir_that_is_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 100}")
    with (
        pytest.raises(RayFolderError, match=r"^RAY_TMPDIR=/tmp/x+ is too long: .* of at most \d\d bytes") as caught,
        ray_session(num_cpus=1),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_ray_tmpdir_that_cannot_be_made_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(RayFolderError, match=r"^Ray cannot start in /proc/nowhere/ray: "), ray_session(num_cpus=1):
        pass
