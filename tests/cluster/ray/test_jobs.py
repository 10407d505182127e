"""Promises of `vrshq.cluster.ray.jobs`, on a real cluster with a job server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.s3_server import free_port
from vrshq.cluster.ray.jobs import submit

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def job_server() -> Iterator[str]:
    """The address of a one-node cluster of its own, with its dashboard."""
    port = free_port()
    ports = {
        name: free_port()
        for name in ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--num-cpus=7", "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    command += [f"--{name}={value}" for name, value in ports.items()]
    command += [f"--temp-dir={os.environ['RAY_TMPDIR']}/j"]
    command += ["--object-store-memory=100000000"]
    head = subprocess.Popen(
        command,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert head.poll() is None, head.communicate()[0].decode()
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=1)
            except urllib.error.HTTPError:
                break  # it answers that it wants the token
            except OSError:
                time.sleep(0.5)
            else:
                break
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "token")
            yield address
    finally:
        # `ray start --block` ends the whole node when it is asked to.
        head.terminate()
        try:
            head.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.communicate()


def test_log_and_exit_code_of_the_job_come_back(job_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys, time; print('first line', flush=True); time.sleep(1); print(sys.argv[1:]); sys.exit(3)"
    words = ["a b", "$HOME", "; echo no", "it's", "*"]
    assert submit(job_server, [sys.executable, "-c", code, *words]) == 3
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert "first line" in lines
    assert str(words) in lines
    assert printed.err.startswith("submitted job ")
    assert len(printed.err.splitlines()) == 1


def test_a_session_inside_a_job_is_the_jobs_cluster_and_success_is_zero(
    job_server: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The address that was given wins over Ray's variable.
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    code = "import os; from vrshq.cluster.ray.session import ray_session\n"
    code += "from vrshq.cluster.ray.resources import cluster_resources\n"
    code += "with ray_session(): print(os.environ['GIVEN'], cluster_resources().cpus)"
    assert submit(job_server, [sys.executable, "-c", code], runtime_env={"env_vars": {"GIVEN": "word"}}) == 0
    assert capfd.readouterr().out.splitlines()[-1:] == ["word 7.0"]


def test_a_job_that_is_not_followed_returns_at_once(job_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    assert submit(job_server, [sys.executable, "-c", "import time; time.sleep(3)"], follow=False) == 0
    assert time.monotonic() - begin < 20
    assert "ray job stop --address" in capfd.readouterr().err


def test_ctrl_c_without_a_terminal_leaves_the_job_and_says_how_to_stop_it(job_server: str) -> None:
    from ray.job_submission import JobSubmissionClient

    code = "import sys; from vrshq.cluster.ray.jobs import submit; sys.exit(submit(sys.argv[1], sys.argv[2:]))"
    sleeper = [sys.executable, "-c", "import time; print('asleep', flush=True); time.sleep(600)"]
    follower = subprocess.Popen(
        [sys.executable, "-c", code, job_server, *sleeper],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background may have them ignore the signal, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert follower.stdout is not None
    for line in follower.stdout:
        if line == "asleep\n":
            break
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=30)
    assert follower.returncode == 130
    job = said.splitlines()[0].split()[2]
    assert f"job {job} goes on" in said
    assert f"ray job stop --address {job_server} {job}" in said
    client = JobSubmissionClient(job_server)
    assert client.get_job_status(job) == "RUNNING"
    client.stop_job(job)


def test_no_job_server_is_one_line() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=f"^no job server answers at {nowhere}") as caught:
        submit(nowhere, ["true"])
    assert "\n" not in str(caught.value)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ConnectionError, match=f"^what answers at {other} is not a usable job server: ") as caught:
            submit(other, ["true"])
        server.shutdown()
    assert "\n" not in str(caught.value)
    with pytest.raises(ConnectionError, match="http://host:8265"):
        submit("127.0.0.1:6379", ["true"])
    with pytest.raises(ValueError, match="no command"):
        submit(nowhere, [])
