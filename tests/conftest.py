"""Hooks of the whole test run: Ray's folder and token, the groups of parallel runs, the parity table in the summary."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest

# Small networks gain nothing from threads, and the threads of parallel processes would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts its workers with niceness 15. Beside the tests of the other parallel worker they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

# Name under which an xdist worker hands its parity scores to the controller.
_PARITY = "parity_scores"


@pytest.fixture(scope="session", autouse=True)
def ray_environment() -> Iterator[None]:
    """Gives Ray a folder of its own and a token that is not stored in the home folder.

    The token is the same for all tests of a process, because Ray reads it only once. An xdist worker is one process
    with its own folder and token, so two workers never share a cluster.
    """
    folder = tempfile.mkdtemp(prefix="vr-")  # short: Ray creates sockets in it, whose paths have a length limit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_ray(ray_environment: None) -> Iterator[None]:  # noqa: ARG001 - its folder and token come first
    """One local Ray of four CPUs for all tests that need nothing of their own from it."""
    from vrshq.cluster.ray.session import ray_session

    with ray_session(num_cpus=4, object_store_memory=400_000_000):
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Torch's name of the device: a test that takes it runs on the CPU, and again on a GPU where there is one."""
    name: str = request.param
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    return name


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Groups the tests for `--dist loadgroup`: all tests marked `ray` together, all others by file.

    Those marked `ray` come first: they are the longest group, which one worker runs in order. Among them, those of
    `shared_ray` come last, because a Ray of this process would serve the others too. Two Ray clusters at the same time would
    compete for the cores until start-up deadlines expire; the tests of a file share module fixtures.
    """

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("ray") is None:
            return 2
        return int("shared_ray" in getattr(item, "fixturenames", ()))

    items.sort(key=place)
    for item in items:
        name = "ray" if item.get_closest_marker("ray") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(name))
    return (yield)  # xdist's own hook, which reads the groups, comes first among all that are no wrappers


def pytest_configure(config: pytest.Config) -> None:
    """Declares xdist's marker where xdist is not installed, because `--strict-markers` rejects unknown ones."""
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): tests that one worker of a parallel run executes")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In an xdist worker: hands the parity scores to the controller."""
    parity = sys.modules.get("tests.support.parity")
    output = getattr(session.config, "workeroutput", None)
    if parity and output is not None:
        output[_PARITY] = [astuple(score) for score in parity.SCORES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In xdist's controller: takes over the parity scores of a worker that has ended."""
    scores = getattr(node, "workeroutput", {}).get(_PARITY)
    if scores:
        from tests.support import parity

        parity.SCORES.extend(parity.Score(*score) for score in scores)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the parity table after the tests' results."""
    parity = sys.modules.get("tests.support.parity")
    lines = parity.score_table() if parity else []
    if lines:
        terminalreporter.section("parity")
        for line in lines:
            terminalreporter.write_line(line)
