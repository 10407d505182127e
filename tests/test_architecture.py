"""The rules of the house: layers, no circles, stages alone in their files, short files, and what each room must not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import import_graph
from tests.support.paths import ROOT

MOST_LINES = 400
FAT: dict[str, str] = {}  # files that may be longer, each with its reason
MOST_LINES_OF_AN_ENTRY = 100
ENTRIES = [
    "pipelines/cli/main.py",
    *(f"pipelines/{trade}/run.py" for trade in ("app", "evaluate", "export", "label", "report", "synth", "train")),
]
STAGES = {
    "decode": "Decode",
    "presample": "PreSample",
    "tokens": "Tokens",
    "fuse": "Fuse",
    "keyframe": "SelectKeyframe",
    "propagate": "Propagate",
}
FORBIDDEN = {
    "operators": {"ray", "fsspec", "s3fs", "gcsfs", "adlfs", "boto3", "botocore", "typer", "rich"},
    "cluster": {"torch", "torchvision", "transformers", "sam2", "decord", "av", "cv2"},
    "pipelines": {"tests"},
}


def python_files() -> list[Path]:
    """Every Python file of the project."""
    return [
        path for folder in (*import_graph.ROOMS, "vrshq", "tests") for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_no_arrow_runs_up_between_or_inside_rooms() -> None:
    modules = import_graph.graph(ROOT)
    assert modules.number_of_edges() > 400
    assert import_graph.arrows_up(modules) == []


def test_no_circle_of_imports() -> None:
    assert import_graph.circles(import_graph.graph(ROOT)) == []


def test_no_file_is_fat() -> None:
    assert set(import_graph.fat(ROOT, MOST_LINES)) == set(FAT)
    assert all(FAT.values())


def test_entry_files_are_short() -> None:
    sizes = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in ENTRIES}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES_OF_AN_ENTRY} == {}


def beside_the_stage(text: str, stage: str) -> list[str]:
    """Top-level definitions of a stage's file that are neither the stage, nor its config, nor used by the stage."""
    tree = ast.parse(text)
    definitions = {
        node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    used, todo = {stage}, [stage]
    while todo:
        names = {node.id for node in ast.walk(definitions[todo.pop()]) if isinstance(node, ast.Name)}
        new = (names & definitions.keys()) - used
        used |= new
        todo += new
    classes = {name for name, node in definitions.items() if isinstance(node, ast.ClassDef)}
    other_classes = {name for name in classes - {stage} if not name.endswith("Config")}
    return sorted((definitions.keys() - used) | other_classes)


def test_a_stage_file_holds_its_stage_alone() -> None:
    files = {path.stem for path in (ROOT / "operators").glob("*.py")}
    assert files == {*STAGES, "batch", "__init__"}
    extra = {
        name: beside_the_stage((ROOT / "operators" / f"{name}.py").read_text("utf-8"), stage)
        for name, stage in STAGES.items()
    }
    assert {name: found for name, found in extra.items() if found} == {}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_no_file_imports_what_its_room_must_not_know(room: str) -> None:
    wrong = [
        f"{one.path.relative_to(ROOT)}:{one.line} imports {one.name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for one in import_graph.imports(path)
        if one.name.partition(".")[0] in FORBIDDEN[room]
    ]
    assert wrong == []


def test_rooms_are_imported_as_parts_of_vrshq_and_never_bare() -> None:
    """A bare `import pipelines` finds a user's own folder of that name; strings that are run as code count too."""
    bare = re.compile(rf"^\s*(?:from|import)\s+(?:{'|'.join(import_graph.ROOMS)})\b", re.MULTILINE)
    in_code = re.compile(rf"[\"';]\s*(?:from|import)\s+(?:{'|'.join(import_graph.ROOMS)})\b")
    wrong = []
    for path in python_files():
        if path == Path(__file__).resolve():
            continue
        text = path.read_text("utf-8")
        if (
            bare.search(text)
            or in_code.search(text)
            or any(one.name.startswith(".") for one in import_graph.imports(path))
        ):
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "unwanted"),
    [("operators", ["ray", "fsspec.implementations.http", "typer"]), ("cluster", ["torch", "sam2"])],
)
def test_loading_a_room_loads_nothing_that_it_must_not_know(room: str, unwanted: list[str]) -> None:
    modules = [f"vrshq.{name}" for name in import_graph.files(ROOT) if name.startswith(f"{room}.")]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += f"print([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_vrshq_loads_neither_torch_nor_ray_and_its_public_names_exist() -> None:
    code = "import sys, vrshq\nprint([name for name in ('torch', 'ray') if name in sys.modules])\n"
    code += "print([name for name in vrshq.__all__ if not hasattr(vrshq, name)])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["[]", "[]"]


def test_every_operator_states_its_columns() -> None:
    from vrshq.pipelines.label.work.worker import OPERATORS, load_operator

    for name in OPERATORS:
        operator = load_operator(name)
        assert getattr(operator, "name") == name  # noqa: B009 - the class attribute of the protocol
        text = " ".join((operator.__doc__ or "").split())
        assert "In:" in text, name
        assert "Out:" in text, name


# The checks find what they are for: each is run on a small house with one planted fault.


def plant(root: Path, files: dict[str, str]) -> Path:
    """A house of three rooms with the given files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_planted_circle_is_found(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "operators/models/bundle.py": "def load():\n    from vrshq.operators.models import weights\n",
            "operators/models/weights.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from vrshq.operators.models.bundle import load\n",
        },
    )
    assert import_graph.circles(import_graph.graph(root)) == [["operators.models.bundle", "operators.models.weights"]]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("operators/decode.py", "cluster/storage/folder.py"),
        ("cluster/ray/engine.py", "operators/batch.py"),
        ("cluster/storage/folder.py", "cluster/ray/engine.py"),
        ("operators/video/files.py", "operators/decode.py"),
        ("operators/masks/rle.py", "operators/video/files.py"),
        ("operators/models/bundle.py", "operators/models/weights.py"),
        ("pipelines/label/run.py", "pipelines/evaluate/run.py"),
        ("pipelines/export/run.py", "pipelines/report/run.py"),
    ],
)
def test_planted_arrow_up_is_found_and_the_way_down_is_free(tmp_path: Path, importer: str, imported: str) -> None:
    source, target = (name.removesuffix(".py").replace("/", ".") for name in (importer, imported))
    root = plant(tmp_path, {importer: f"from vrshq.{target} import name\n", imported: "name = 1\n"})
    assert import_graph.arrows_up(import_graph.graph(root)) == [f"{source} -> {target}"]


def test_arrow_down_is_allowed(tmp_path: Path) -> None:
    files = {
        "pipelines/label/run.py": "from vrshq.operators.batch import Unit\n",
        "operators/batch.py": "Unit = dict\n",
    }
    assert import_graph.arrows_up(import_graph.graph(plant(tmp_path, files))) == []


def test_planted_fat_file_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"cluster/ray/engine.py": "x = 1\n" * 401, "cluster/ray/jobs.py": "x = 1\n" * 400})
    assert import_graph.fat(root, MOST_LINES) == {"cluster/ray/engine.py": 401}


def test_planted_guest_in_a_stage_file_is_found() -> None:
    text = "class FuseConfig: ...\ndef similarities(): ...\ndef unused(): ...\nclass Network: ...\n"
    text += "class Fuse:\n    def __init__(self, config: FuseConfig): similarities()\n"
    assert beside_the_stage(text, "Fuse") == ["Network", "unused"]
