"""What the documents say exists: the names in the tables of features, commands with their options, and Python."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import imc_kit
from imc_kit import PairClassifier, viz
from imc_kit.cli.main import COMMANDS, main, parse
from imc_kit.cli.solve import Solve
from imc_kit.compare import page
from imc_kit.config import PRESETS, Config, preset
from imc_kit.detectors import DETECTORS
from imc_kit.matchers import MATCHERS, check_accepts
from imc_kit.retrieval import DESCRIPTORS
from imc_kit.retrieval.pairs import PairsConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FEATURES = (ROOT / "docs/features.md").read_text("utf-8")
BENCHMARKS = "ablation", "choice", "classes", "compare", "features", "retrieval"
SCRIPTS = ["build_dataset.py", *(f"benchmarks/{name}.py" for name in BENCHMARKS)]
ELSEWHERE = {
    "--no-deps",
    *("--only", "--case", "--inputs"),
    *("--time-limits", "--rows", "--sizes", "--synthetic", "--without-mapping", "--exhaustive"),
    *("--whole-up-to", "--lightglue"),
    *("--strict", "--dir-mode", "--accelerator", "--scheduler-file", "--protocol", "--user"),
    *("--workspace_path", "--output_path", "--import_path", "--image_path", "--database_path"),
    *("--image-folder", "--data", "--colmap-path", "--noise"),
}
"""Options of mypy, of Kaggle's own command, of Dask's, of Docker's, of COLMAP's, OpenMVS's and nerfstudio's, and of the
benchmarks."""


def commands(path: Path) -> list[str]:
    """What the document types after a prompt, of the kit's command."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    return re.findall(r"^\$ (imc-kit .+)$", text, re.MULTILINE)


def section(title: str) -> str:
    return FEATURES.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, list[str]]:
    """The cells of the tables under a heading, by the name in the first."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section(title).splitlines() if line[:1] == "|"
    ]
    return {first.strip("`"): rest for first, *rest in lines if first.startswith("`")}


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of the kit's commands and scripts, places in lists written as 0."""
    parts = [f"{detector}+nearest" for detector in DETECTORS] + [f"sift+{matcher}" for matcher in MATCHERS]
    said = io.StringIO()
    for arguments in (
        ["solve", "--add", *parts, "--descriptors", *DESCRIPTORS, "--help-all"],
        *([*name.split(), "--help"] for name in COMMANDS if name != "solve"),
    ):
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            main(arguments)
    for script in SCRIPTS:
        path = ROOT / script
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(path), "--help"])
            patch.syspath_prepend(path.parent)
            with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
                runpy.run_path(str(path), run_name="__main__")
    found = re.findall(r"(?<![\w-])--[a-z][\w.-]*", re.sub(r"\.(\d+|N)(?=\.)", ".0", said.getvalue()))
    return {*found, *(option.replace("--also.0.", "--") for option in found)}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Presets", PRESETS),
        ("Detectors", DETECTORS),
        ("Matchers", MATCHERS),
        ("Global descriptors", DESCRIPTORS),
        ("Pair selection", get_args(get_type_hints(PairsConfig)["method"])),
    ],
)
def test_the_tables_have_every_name_and_no_other(title: str, names: Any) -> None:
    assert sorted(rows(title)) == sorted(names)


def test_the_table_of_detectors_says_which_matchers_go_with_each() -> None:
    for detector, cells in rows("Detectors").items():
        kind = DETECTORS[detector]().kind
        right = [name for name, config in MATCHERS.items() if config().accepts(kind)]
        assert [name for name in MATCHERS if f"`{name}`" in cells[1]] == right, detector


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_options_in_the_text_exist(path: Path, options: set[str]) -> None:
    text = re.sub(r"\.\d+\.", ".0.", path.read_text("utf-8"))
    quoted = re.findall(r"(?<![\w-])(--[a-z][\w.-]*)(…?)", text)
    unknown = [
        option
        for option, more in quoted
        if not (any(known.startswith(option) for known in options) if more else option.rstrip(".-") in options)
    ]
    assert set(unknown) <= ELSEWHERE


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_in_the_text_are_understood(path: Path) -> None:
    for line in commands(path):
        arguments = shlex.split(line, comments=True)[1:]
        if not {"--help", "--help-all", "--version"} & set(arguments):
            command = parse(arguments)
            for pipeline in command.config.feature_pipelines if isinstance(command, Solve) else ():
                check_accepts(pipeline.matcher, pipeline.detector.kind)


def test_the_python_in_the_text_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[Config] = []

    def solve(photos: str, out: str, config: Config | None = None, classifier: PairClassifier | None = None) -> None:
        solved.append(config or preset("sift"))

    monkeypatch.setattr(MATCHERS, "_known", dict(MATCHERS))
    monkeypatch.setattr(imc_kit, "solve", solve, raising=False)
    for code in re.findall(r"```python\n(.+?)```", FEATURES, re.DOTALL):
        exec(code, {"__name__": "__main__"})
    assert solved
    for config in solved:
        config.weight_files()  # raises where a matcher does not go with its detector


def test_every_picture_is_shown_and_made_by_the_kit() -> None:
    there = {path.name for path in (ROOT / "docs/pictures").iterdir()}
    shown = {
        (path.parent / target).resolve()
        for path in DOCUMENTS
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text("utf-8"))
    }
    assert shown == {ROOT / "docs/pictures" / name for name in there}
    script = (ROOT / "docs/make_pictures.py").read_text("utf-8")
    assert [name for name in there if f'"{Path(name).stem}"' not in script and name not in script] == []


def test_every_figure_is_in_the_table_of_figures() -> None:
    named = re.findall(r"`(draw_\w+)`", (ROOT / "docs/pictures.md").read_text("utf-8"))
    assert sorted(named) == sorted(name for name in {*dir(viz), *dir(page)} if name.startswith("draw_"))


def test_what_github_shows_is_short_and_asks_for_the_record_of_a_run() -> None:
    texts = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
    assert {name: line for name, text in texts.items() for line in text.splitlines() if len(line) > 120} == {}
    assert len(texts["README.md"].splitlines()) <= 130
    templates = [path.read_text("utf-8") for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")]
    assert len(templates) == 2
    assert all("Attach run.json" in text for text in templates)
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
