"""Each notebook equals its script. (tests/kaggle/test_notebooks_run.py runs the notebooks.)"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import jupytext
import pytest
from jupytext.compare import NotebookDifference, compare_notebooks

from imc_kit import viz

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted({path.stem for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb")})


def differences(script: str, notebook: str) -> None:
    """Raises NotebookDifference unless both have the same cells."""
    expected, found = jupytext.reads(notebook, "ipynb"), jupytext.reads(script, "py:percent")
    compare_notebooks(found, expected, fmt="py:percent", allow_expected_differences=False)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree(name: str) -> None:
    """`make notebooks` makes them agree."""
    script, notebook = (FOLDER / f"{name}{suffix}" for suffix in (".py", ".ipynb"))
    differences(script.read_text("utf-8"), notebook.read_text("utf-8"))


def test_pairs_that_differ_are_found() -> None:
    script, notebook = ((FOLDER / f"submission{suffix}").read_text("utf-8") for suffix in (".py", ".ipynb"))
    for old, new in (("imc_kit.solve(", "imc_kit.solved("), ("no internet", "internet"), ("# %% [markdown]", "# %%")):
        assert old in script
        with pytest.raises(NotebookDifference):
            differences(script.replace(old, new, 1), notebook)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_small(name: str) -> None:
    content = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))
    outputs = [cell.get("outputs", []) for cell in content["cells"]]
    assert len(json.dumps(outputs)) < 500_000
    assert not [cell for cell in outputs if any(output["output_type"] == "error" for output in cell)]


def code(name: str) -> list[str]:
    """The code cells of a notebook."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "submission"])  # it must install the kit first
def test_notebooks_only_call_the_library(name: str) -> None:
    logic = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.If, ast.Try)
    nodes = [node for source in code(name) for node in ast.walk(ast.parse(source))]
    assert not [node for node in nodes if isinstance(node, logic)]
    # No arithmetic: the only operator is that of paths.
    assert not [node for node in nodes if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Div)]


def test_every_figure_is_in_a_notebook() -> None:
    everything = "\n".join(source for name in NAMES for source in code(name))
    figures = [name for name in viz.__all__ if name.startswith("draw_")]
    assert len(figures) >= 10
    assert [name for name in figures if f"viz.{name}(" not in everything] == []
