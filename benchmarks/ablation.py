"""What each technique is worth: every one switched off or on, on scenes whose true poses are known.

    python benchmarks/ablation.py ROOT [--preset sift] [--scenes A B] [--rows NAME …] [--out DIR]
    python benchmarks/ablation.py ROOT --time-limits [--preset sift] [--scenes A B] [--out DIR]

ROOT has a competition's layout, with truth.csv and thresholds.json (distances by scene). Without --scenes, a rendered
turntable is added. All rows share the keypoints and matches in DIR, so the seconds of a row are those of verification
and everything after it. ablation.md is rewritten after every row.

With --time-limits, the whole run is timed from scratch, then repeated with a time limit of a tenth, three tenths and
all of that time.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from imc_kit import explore
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.config import Config, preset
from imc_kit.data import scenes
from imc_kit.errors import KitError
from imc_kit.pipeline.run import solve
from rendered.turntable import write_turntable

SHARED_STAGES = ("inspect", "upright", "detect", "pairs", "match")
"""The stages whose results all rows share."""

Change = Callable[[Config], Config]


def switched(name: str, **options: object) -> Change:
    """Change options of one step."""
    return lambda config: dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **options)})


def only(*runs: int) -> Change:
    """Keep these of the mapping runs."""
    return lambda config: dataclasses.replace(config, mapping=tuple(config.mapping[number] for number in runs))


def every_run(**options: object) -> Change:
    """Change options of all mapping runs."""

    def changed(config: Config) -> Config:
        return dataclasses.replace(config, mapping=tuple(dataclasses.replace(run, **options) for run in config.mapping))

    return changed


def chain(*changes: Change) -> Change:
    def changed(config: Config) -> Config:
        for change in changes:
            config = change(config)
        return config

    return changed


def first_version(config: Config) -> Config:
    """Mapping as in the first version that worked from end to end: one incremental run and nothing after it."""
    return dataclasses.replace(bare(config), mapping=(MappingConfig(by_cameras=False, max_keypoints=None),))


bare = chain(*(switched(step, on=False) for step in ("readding", "merging", "localisation", "refinement", "turntable")))
ROWS: dict[str, Change] = {
    "all": lambda config: config,
    "one mapping run, and nothing after it": first_version,
    "one mapping run: global": only(0),
    "one mapping run: global, strong pairs": only(1),
    "one mapping run: incremental": only(2),
    "without strong pairs": only(0, 2),
    "all keypoints in mapping": every_run(max_keypoints=None),
    "the same for per-image and shared intrinsics": every_run(by_cameras=False),
    "one mapping run, without merging": chain(only(2), switched("merging", on=False)),
    "one mapping run, without localisation": chain(only(2), switched("localisation", on=False)),
    "without re-adding pruned pairs": switched("readding", on=False),
    "without localisation": switched("localisation", on=False),
    "without refinement": switched("refinement", on=False),
    "refinement of all": switched("refinement", max_median_error=9.0, min_images=1),
    "OPENCV from the start": chain(switched("cameras", model="OPENCV"), switched("refinement", on=False)),
    "without the turntable": switched("turntable", on=False),
    "exact nearest neighbours": switched("matcher", cells=None),
    "all pairs matched": switched("pairs", method="exhaustive"),
}


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    parser = argparse.ArgumentParser(description="What each technique is worth.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout, with truth.csv and thresholds.json")
    parser.add_argument("--preset", default="sift", help="default: sift")
    parser.add_argument("--scenes", nargs="+", help="use only these, and no turntable")
    parser.add_argument("--max-images", type=int, default=70, help="leave larger scenes out; default: 70")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablation", help="%(default)s")
    parser.add_argument("--time-limits", action="store_true", help="measure time limits instead of techniques")
    arguments = parser.parse_args()
    config = preset(arguments.preset)
    task = scenes.load(arguments.root)
    small = [scene.name for scene in task.scenes if len(scene.images) <= arguments.max_images]
    tasks = [task.only(*(arguments.scenes or small))]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.time_limits:
            compare_time_limits(tasks, config, arguments.out)
            return
        if not arguments.scenes:
            write_turntable(Path(folder))
            tasks.append(scenes.load(Path(folder)))
        ablate(tasks, config, arguments.rows, arguments.out)


def run(tasks: Sequence[scenes.Task], config: Config, out: Path) -> pd.DataFrame:
    """mAA, registered images and seconds after matching, by scene."""
    lines = []
    for number, task in enumerate(tasks):
        result = solve(task, out / str(number), config)
        for name, one in explore.score(task, result.submission).scenes.items():
            found = result.scenes.get(name)
            seconds = sum(s for stage, s in found.seconds.items() if stage not in SHARED_STAGES) if found else 0.0
            lines.append((name, one.score, found.counts["registered"] if found else 0, seconds))
    return pd.DataFrame(lines, columns=["scene", "mAA", "registered", "seconds"]).set_index("scene")


def ablate(tasks: Sequence[scenes.Task], config: Config, rows: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    run(tasks, config, out)  # computes the keypoints and matches of all rows
    table: dict[str, dict[str, str]] = {}
    for name in rows:
        for number in range(len(tasks)):  # so that each row verifies the matches again
            shutil.rmtree(out / str(number) / "scenes", ignore_errors=True)
        found = run(tasks, ROWS[name](config), out)
        table[name] = {
            "mean": f"{found['mAA'].mean():.3f}",
            **{scene: f"{line.mAA:.3f} ({int(line.registered)})" for scene, line in found.iterrows()},
            "seconds": f"{found['seconds'].sum():.0f}",
        }
        cells = pd.DataFrame.from_dict(table, orient="index")
        print(cells.tail(1).to_string(), flush=True)
        lines = [["", *cells.columns], ["---"] * (len(cells.columns) + 1), *([r, *cells.loc[r]] for r in cells.index)]
        (out / "ablation.md").write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n", "utf-8")
    print(f"saved in {out / 'ablation.md'}")


def compare_time_limits(tasks: Sequence[scenes.Task], config: Config, out: Path) -> None:
    """Solve without a time limit, then with shares of the time that this took."""
    whole = None
    print(f"{'time limit':>10} {'seconds':>8} {'mean mAA':>9}")
    for share in (None, 0.1, 0.3, 1.0):
        shutil.rmtree(out, ignore_errors=True)
        limit = None if share is None or whole is None else share * whole
        started = time.monotonic()
        found = run(tasks, dataclasses.replace(config, time_limit=limit), out)
        seconds = time.monotonic() - started
        whole = whole or seconds
        said = "none" if limit is None else f"{limit:.0f} s"
        print(f"{said:>10} {seconds:8.1f} {found['mAA'].mean():9.3f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
