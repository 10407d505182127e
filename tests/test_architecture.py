"""The house's rules: an arrow only ever goes down, operators know no Ray and no buckets, cluster knows no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "operators": {
        "ray",
        "fsspec",
        "s3fs",
        "gcsfs",
        "adlfs",
        "boto3",
        "botocore",
        "typer",
        "rich",
        "cluster",
        "pipelines",
    },
    "cluster": {"torch", "torchvision", "transformers", "sam2", "decord", "av", "cv2", "operators", "pipelines"},
    "pipelines": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_file_imports_what_its_folder_must_not_know(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 3
    wrong = {str(path.relative_to(ROOT)): sorted(imported(path) & FORBIDDEN[package]) for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [("operators", ["ray", "fsspec.implementations.http", "typer"]), ("cluster", ["torch", "sam2"])],
)
def test_loading_a_folder_loads_nothing_it_must_not_know(package: str, unwanted: list[str]) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py" and "bundles" not in path.parts
    ]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += f"print([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_operator_states_its_columns() -> None:
    from vrshq.pipelines.label.worker import OPERATORS, load_operator

    for name in OPERATORS:
        operator = load_operator(name)
        assert getattr(operator, "name") == name  # noqa: B009 - the class attribute of the protocol
        text = " ".join((operator.__doc__ or "").split())
        assert "In:" in text or "Columns in:" in text, name
        assert "Out" in text or "Columns out" in text, name
