"""The layers of the package: a room imports only from rooms below it, and no two modules import each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import imc_kit

ROOT = Path(imc_kit.__file__).parent
LAYERS = [
    "errors",
    "types",
    "runtime",
    "data",
    "viewgraph",
    "detectors",
    "matchers",
    "metric",
    "colmap",
    "poses",
    "retrieval",
    "config",
    "synthetic",
    "pipeline",
    "export",
    "queries",
    "viz",
    "kaggle",
    "explore",
    "compare",
    "cli",
]
"""Rooms and top-level modules, from the lowest to the highest."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"  # the public API, which loads everything on demand
}


def imported(path: Path) -> set[str]:
    """The modules of the kit that a file imports anywhere in it, relative to the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner.removeprefix("imc_kit.") in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = {name.removeprefix("imc_kit.") for name in names if name.startswith("imc_kit.")}
    packages = {name.removesuffix(".__init__"): name for name in MODULES}
    return {packages[name] for name in inside if name in packages}


def test_every_room_has_a_layer() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(LAYERS)


def test_imports_point_downwards() -> None:
    rank = {room: number for number, room in enumerate(LAYERS)}
    upwards = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imported(path)
        if rank[other.split(".")[0]] > rank[name.split(".")[0]]
    ]
    assert not upwards


def test_no_modules_import_each_other() -> None:
    """A package's `__init__` imports its own modules, so a module that imports its package would be a cycle too."""
    TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()


def test_the_top_level_is_small() -> None:
    assert sum("." not in name for name in MODULES) + 1 <= 8
