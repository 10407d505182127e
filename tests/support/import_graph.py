"""The project's import graph from the syntax trees: modules, arrows, circles, arrows that run up, file sizes.

    python -m tests.support.import_graph [ROOT]

No module is imported or run. Imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

ROOMS = ("operators", "cluster", "pipelines")
PACKAGE = "vrshq"

# Layers of each room, lowest first. A module belongs to the longest name that is its own name or a package around it.
# A module may import from lower layers and from its own name, but not from other names of its layer.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "operators": (
        ("operators.batch",),
        ("operators.video", "operators.masks", "operators.synth"),
        ("operators.models.config",),
        ("operators.models.vrs_hq.prompt",),
        ("operators.models",),
        ("operators.models.bundle",),
        ("operators.models.family", "operators.models.lora", "operators.models.presence"),
        (
            "operators.models.weights",
            "operators.models.requests",
            "operators.models.shared",
            "operators.models.track_state",
            "operators.models.evidence",
        ),
        ("operators.models.sam2", "operators.models.presence_head"),
        # the families: nothing below or beside imports them; `shared` loads a bundle's own by its name
        ("operators.models.vrs_hq", "operators.models.sa2va", "operators.models.sam3"),
        ("operators",),
        ("operators.training",),
    ),
    "cluster": (("cluster.storage",), ("cluster.ray",)),
    "pipelines": (
        ("pipelines.config", "pipelines.demo", "pipelines.drawing"),
        ("pipelines.models",),
        ("pipelines.estimate",),
        ("pipelines.label.resources",),
        ("pipelines.label.method",),
        ("pipelines.label.settings", "pipelines.label.tables"),
        ("pipelines.label.asked", "pipelines.label.work"),
        ("pipelines.label.planning",),
        ("pipelines.label",),
        ("pipelines.synth",),
        ("pipelines.export",),
        ("pipelines.report",),
        ("pipelines.ask",),
        ("pipelines.app",),
        ("pipelines.evaluate",),
        ("pipelines.train",),
        ("pipelines.cli",),
    ),
}
BELOW: dict[str, set[str]] = {"operators": set(), "cluster": set(), "pipelines": {"operators", "cluster"}}


@dataclass(frozen=True)
class Import:
    """An import: the file and the line of the statement, and the dotted name that it imports."""

    path: Path
    line: int
    name: str


def files(root: Path) -> dict[str, Path]:
    """Maps module name (without `vrshq.`) -> file, for each Python file of the three rooms under `root`."""
    found = {}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> list[Import]:
    """All imports of a file. `from a import b` gives `a.b`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(path, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found += [Import(path, node.lineno, f"{prefix}.{alias.name}") for alias in node.names]
    return found


def graph(root: Path) -> nx.DiGraph:
    """The modules of the three rooms, with an edge from each module to each module that it imports."""
    modules = files(root)
    result = nx.DiGraph()
    result.add_nodes_from(modules)
    for module, path in modules.items():
        for one in imports(path):
            name = one.name.removeprefix(f"{PACKAGE}.")
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != module:
                result.add_edge(module, name)
    return result


def circles(modules: nx.DiGraph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(modules) if len(group) > 1)


def layer(module: str) -> tuple[str, int, str]:
    """The room of a module, the rank of its layer, and the name in the layer that covers it.

    Raises:
        KeyError: no layer covers the module.
    """
    room = module.partition(".")[0]
    ranks = {name: rank for rank, names in enumerate(LAYERS[room]) for name in names}
    name = module
    while name and name not in ranks:
        name = name.rpartition(".")[0]
    if name == "":
        raise KeyError(f"{module}: no layer of {room} covers it")
    return room, ranks[name], name


def arrows_up(modules: nx.DiGraph) -> list[str]:
    """Imports of a higher layer, of another name in the same layer, or of a room that the importer must not know."""
    wrong = []
    for source, target in sorted(modules.edges):
        if source in ROOMS or target in ROOMS:  # the room's own `__init__`
            continue
        (room, rank, name), (other_room, other_rank, other_name) = layer(source), layer(target)
        below = other_rank < rank or other_name == name if room == other_room else other_room in BELOW[room]
        if not below:
            wrong.append(f"{source} -> {target}")
    return wrong


def fat(root: Path, most: int) -> dict[str, int]:
    """Files of the three rooms with more than `most` lines."""
    sizes = {str(path.relative_to(root)): len(path.read_text("utf-8").splitlines()) for path in files(root).values()}
    return {name: lines for name, lines in sizes.items() if lines > most}


def describe(root: Path) -> str:
    """The graph in a few lines: files and lines of each folder, arrows, circles, arrows up, the longest files."""
    modules, paths = graph(root), files(root)
    folders = Counter(str(path.parent.relative_to(root)) for path in paths.values())
    between = Counter(
        (source.partition(".")[0], target.partition(".")[0])
        for source, target in modules.edges
        if source.partition(".")[0] != target.partition(".")[0]
    )
    sizes = sorted(fat(root, 0).items(), key=lambda item: -item[1])
    lines = [f"{len(modules)} modules, {modules.number_of_edges()} arrows"]
    lines += [f"{source} -> {target}: {count} arrows" for (source, target), count in sorted(between.items())]
    lines += [f"circles: {len(circles(modules))}", *(f"  {' <-> '.join(group)}" for group in circles(modules))]
    try:
        lines += [f"arrows up: {len(arrows_up(modules))}", *(f"  {arrow}" for arrow in arrows_up(modules))]
    except KeyError as error:
        lines.append(f"arrows up: not known, {error.args[0]}")
    lines += ["longest files: " + ", ".join(f"{name} {size}" for name, size in sizes[:5])]
    lines += ["files a folder: " + ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items()))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]))
