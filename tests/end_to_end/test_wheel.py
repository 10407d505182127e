"""The built wheel, installed away from the checkout, works where a user has folders named like the three rooms."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.paths import DEMO, ROOT

pytestmark = pytest.mark.ray
SOURCES = ("operators", "cluster", "pipelines", "vrshq")
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
DECOY = "raise ImportError('a folder of the user was imported instead of the package')\n"


def run(command: list[str | Path], folder: Path) -> str:
    """The output of a command that must succeed, without the checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that no build folder is left in the checkout."""
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", built, copy], built)
    (found,) = built.glob("vrshq-*.whl")
    return found


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel; its other packages are those of the environment that runs the tests.

    A path in a .pth file makes packages importable but runs none of the .pth files there, so the editable install of the
    checkout is not seen.
    """
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        environment / "bin" / "python",
    ]
    run([*pip, "install", "--quiet", "--no-deps", "--ignore-installed", wheel], environment)
    return environment / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with packages of the user's own that are named like the rooms."""
    for name in ("operators", "cluster", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(DECOY)
    return tmp_path


def test_wheel_holds_the_code_once_and_every_data_file(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"vrshq"}
    tracked = subprocess.run(
        ["git", "ls-files", "operators", "cluster", "pipelines"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: the list of files is not known")
    present = {f"vrshq/{name}" for name in tracked if (ROOT / name).exists()}
    assert present - set(names) == set()


def test_wheel_labels_and_reports_on_ray_beside_folders_named_like_the_rooms(scripts: Path, folder: Path) -> None:
    vrshq, table = scripts / "vrshq", folder / "table.jsonl"
    lines = (DEMO / "instructions.jsonl").read_text().splitlines()
    table.write_text("\n".join(lines[::2]) + "\n")
    line: list[str | Path] = [vrshq, "label", table, "--videos", DEMO, "--output", "run", "--model", "untrained-tiny"]
    two = "resources.pools=[{operators: [presample, tokens, fuse, keyframe, propagate], actors: 2, cpus: 0.5}]"
    assert "0 errors" in run([*line, "--set", two], folder)
    assert len(pq.read_table(folder / "run" / "tracks")) == len(lines[::2])
    run([vrshq, "report", "run"], folder)
    assert "<style>" in (folder / "run" / "report.html").read_text()


def test_wheel_finds_its_own_files_beside_folders_named_like_the_rooms(scripts: Path, folder: Path) -> None:
    code = (
        "import pathlib, sys, vrshq\n"
        "from vrshq.pipelines.train.settings import load_train_settings\n"
        "from vrshq.pipelines.label.planning.costs import TABLE\n"
        "from vrshq.pipelines.evaluate import run\n"
        "assert pathlib.Path(vrshq.__file__).is_relative_to(sys.prefix), vrshq.__file__\n"
        "print(TABLE.exists(), len(load_train_settings('tiny', []).stages) > 0)\n"
    )
    assert run([scripts / "python", "-c", code], folder).split() == ["True", "True"]
