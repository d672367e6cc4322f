"""Hostile inputs, damaged folders and interrupted runs: how many does the kit survive?

    python benchmarks/torture.py [--seed 0] [--inputs 2000] [--only images tables …] [--json FILE] [--workers 2]
    python benchmarks/torture.py --only images --case 17      # one case again, with the same seed

A survivor is a result that is right, or one sentence that says what is wrong. No case may end with a traceback, a lost
row, a deleted good file, a result that differs from a clean run's, or not at all. `docs/reliability.md` has the table
that this prints. The scene is rendered, and all cases work in a temporary folder. The exit status is 1 if any case
failed. Linux only: the script reads /proc and limits resources.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from hostile import folders, images, interruptions, options, reports, runs, tables
from hostile.cases import Kind, Place
from hostile.workers import Job, Result, run_all

KINDS = {
    kind.name: kind
    for kind in (
        Kind("images", images.file_case, "a photo, or one sentence", share=0.5, seconds=90),
        Kind("tables", tables.table_case, "every row, a score, or one sentence", share=0.25, seconds=90),
        Kind("options", options.option_case, "a sane configuration, or one sentence", share=0.2),
        Kind("reports", reports.report_case, "a page without foreign markup, or one sentence", share=0.05, seconds=60),
        Kind("photos", interruptions.photos_case, "every row, the readable photos registered", count=6, seconds=300),
        Kind("configured", interruptions.configured_case, "every row, or one sentence", count=10, seconds=300),
        Kind("damage", folders.damage_case, "a clean run's result, nothing good deleted", count=72, seconds=300),
        Kind("interruptions", interruptions.interruption_case, "a clean run's result", count=16, seconds=600),
        Kind("limits", interruptions.limit_case, "a clean run's result", count=interruptions.LIMIT_CASES, seconds=600),
        Kind("concurrent", interruptions.concurrent_case, "a clean run's result", count=4, seconds=600),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all random choices; default: 0")
    parser.add_argument("--inputs", type=int, default=2000, help="number of hostile inputs; default: 2000")
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="CLASS", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--case", type=int, help="only the case with this number")
    parser.add_argument("--workers", type=int, default=2, help="cases at the same time; default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every result to this file")
    arguments = parser.parse_args()
    names = [name for text in arguments.only for name in text.split(",")]
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"unknown class {unknown[0]}: known are {', '.join(KINDS)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imc-kit-torture-", ignore_cleanup_errors=True) as folder:
        place = prepare(Path(folder).resolve())
        jobs = list_jobs(names, arguments.inputs, arguments.case)
        results = []
        for result in run_all(jobs, KINDS, place, arguments.seed, arguments.workers):
            results.append(result)
            if not result.survived:
                print(f"FAILED {result.name} {result.case}: {result.said}", file=sys.stderr, flush=True)
            elif sys.stderr.isatty():
                print(f"\r{len(results)} of {len(jobs)} ", end="", file=sys.stderr)
    results.sort(key=lambda result: (names.index(result.name), result.case))
    print(summary(results, arguments.seed, time.monotonic() - started))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
    return 0 if all(result.survived for result in results) else 1


def prepare(folder: Path) -> Place:
    """Render the scene, and solve it once without any harm."""
    place = Place(folder / "scene", folder / "clean" / "out", folder / "cases")
    place.folder.mkdir()
    place.clean.parent.mkdir()
    runs.render(place.scene)
    for _ in range(2):  # the first run may compile code; the second tells how long a run takes
        shutil.rmtree(place.clean, ignore_errors=True)
        command = runs.Command(place.scene, place.clean)
        if command.run() != 0:
            sys.exit(f"the clean run failed: {command.said()}")
        (place.clean.parent / "seconds").write_text(str(time.monotonic() - command.started))
    return place


def list_jobs(names: Sequence[str], inputs: int, case: int | None) -> list[Job]:
    """The cases to run: the long ones first, so that no worker waits at the end."""
    if case is not None:
        return [(name, case) for name in names]
    counts = {name: KINDS[name].count or round(KINDS[name].share * inputs) for name in names}
    longest_first = sorted(names, key=lambda name: KINDS[name].share)
    return [(name, number) for name in longest_first for number in range(counts[name])]


def summary(results: Sequence[Result], seed: int, seconds: float) -> str:
    """A Markdown table of the classes, and how to repeat each failure."""
    lines = ["| class | tried | survived | what a survivor is |", "|---|--:|--:|---|"]
    for name in dict.fromkeys(result.name for result in results):
        of_kind = [result for result in results if result.name == name]
        survived = sum(result.survived for result in of_kind)
        lines.append(f"| {name} | {len(of_kind):,} | {survived:,} | {KINDS[name].survivors} |")
    survived = sum(result.survived for result in results)
    lines.append(f"| **all** | **{len(results):,}** | **{survived:,}** | |")
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines += ["", f"Seed {seed}, {date.today()}, {seconds / 60:.1f} minutes, {machine}."]
    for result in results:
        if not result.survived:
            again = f"--only {result.name} --case {result.case} --seed {seed}"
            lines += ["", f"- `{again}`: {result.said}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
