"""What each technique after matching is worth: every one on and off, on scenes whose cameras are known.

    python benchmarks/ablation.py ROOT [--preset sift] [--scenes A B] [--rows NAME …] [--out DIR]
    python benchmarks/ablation.py ROOT --clock [--preset sift] [--scenes A B] [--out DIR]

ROOT is in a competition's layout, with truth.csv and thresholds.json (distances by scene) beside; a rendered turntable
is added. Keypoints and matches are kept in DIR and shared by all rows, so a row's seconds are those of verification and
of all that follows. After every row ablation.md is rewritten.

With --clock the whole run is timed, from nothing, and then made again in a tenth, three tenths and all of that time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from imc_kit import metric
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.config import Config, preset
from imc_kit.data import scenes
from imc_kit.errors import KitError
from imc_kit.pipeline.run import solve
from imc_kit.synthetic.turntable import write_turntable

MATCHING = ("inspect", "upright", "masks", "detect", "pairs", "match")
"""The stages that rows share."""


def switched(name: str, **options: object) -> Callable[[Config], Config]:
    """A change to the configuration of one step."""
    return lambda config: dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **options)})


def only(*attempts: int) -> Callable[[Config], Config]:
    """Of the attempts at mapping, these."""
    return lambda config: dataclasses.replace(config, mapping=tuple(config.mapping[number] for number in attempts))


def every_attempt(**options: object) -> Callable[[Config], Config]:
    """A change to all attempts."""

    def changed(config: Config) -> Config:
        return dataclasses.replace(config, mapping=tuple(dataclasses.replace(one, **options) for one in config.mapping))

    return changed


def another_attempt(**options: object) -> Callable[[Config], Config]:
    """One attempt more, the last."""
    return lambda config: dataclasses.replace(config, mapping=(*config.mapping, MappingConfig(**options)))


def lens(model: str) -> Callable[[Config], Config]:
    """Another camera model from the start."""
    return switched("cameras", model=model)


def chain(*changes: Callable[[Config], Config]) -> Callable[[Config], Config]:
    def changed(config: Config) -> Config:
        for change in changes:
            config = change(config)
        return config

    return changed


def first_version(config: Config) -> Config:
    """Mapping as it was in the first version that went from end to end: one attempt, and nothing after it."""
    return dataclasses.replace(bare(config), mapping=(MappingConfig(by_cameras=False, max_keypoints=None),))


bare = chain(*(switched(step, on=False) for step in ("readding", "merging", "localisation", "refinement", "turntable")))
ROWS: dict[str, Callable[[Config], Config]] = {
    "all": lambda config: config,
    "one attempt, and nothing after it": first_version,
    "one attempt: global": only(0),
    "one attempt: global, strong pairs": only(1),
    "one attempt: incremental": only(2),
    "one attempt: incremental, without contradicted pairs": only(3),
    "without the global mapper": only(2, 3),
    "without strong pairs": only(0, 2, 3),
    "without the attempt without contradicted pairs": only(0, 1, 2),
    "loops to 20 degrees in every attempt": every_attempt(max_cycle_error=20.0),
    "a fifth attempt: OPENCV": another_attempt(camera_model="OPENCV"),
    "a fifth attempt: SIMPLE_PINHOLE": another_attempt(camera_model="SIMPLE_PINHOLE"),
    "all keypoints in mapping": every_attempt(max_keypoints=None),
    "the same for own and shared cameras": every_attempt(by_cameras=False),
    "one attempt, without merging": chain(only(2), switched("merging", on=False)),
    "one attempt, without localisation": chain(only(2), switched("localisation", on=False)),
    "without readding": switched("readding", on=False),
    "without localisation": switched("localisation", on=False),
    "without refinement": switched("refinement", on=False),
    "refinement of all": switched("refinement", max_median_error=9.0, min_images=1),
    "OPENCV from the start": chain(lens("OPENCV"), switched("refinement", on=False)),
    "without the turntable": switched("turntable", on=False),
    "verification by COLMAP": switched("verification", method="colmap"),
    "without matches that stay within 2 px": switched("verification", min_motion=2.0),
    "exact nearest neighbours": switched("matcher", cells=None),
    "all pairs matched": switched("pairs", method="exhaustive"),
}


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    parser = argparse.ArgumentParser(description="What each technique after matching is worth.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--scenes", nargs="+")
    parser.add_argument("--max-images", type=int, default=70)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablation")
    parser.add_argument("--clock", action="store_true")
    arguments = parser.parse_args()
    config = preset(arguments.preset)
    tasks = [chosen(arguments.root, arguments.scenes, arguments.max_images)]
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.scenes:
            write_turntable(Path(folder))
            tasks.append(scenes.load(Path(folder)))
        if arguments.clock:
            against_the_clock(tasks[:1], config, arguments.out)
        else:
            ablate(tasks, config, arguments.rows, arguments.out)


def chosen(root: Path, names: Sequence[str] | None, most: int) -> scenes.Task:
    """The scenes to run."""
    task = scenes.load(root)
    some = tuple(s for s in task.scenes if (s.name in names if names else len(s.images) <= most))
    known = {scene.name for scene in some}
    return dataclasses.replace(task, scenes=some, rows=tuple(row for row in task.rows if row.scene in known))


def run(tasks: Sequence[scenes.Task], config: Config, out: Path) -> pd.DataFrame:
    """mAA, registered images and seconds after matching, by scene."""
    lines = []
    for number, task in enumerate(tasks):
        result = solve(task, out / str(number), config)
        thresholds = json.loads((task.root / "thresholds.json").read_text("utf-8"))
        names = {scene.name for scene in task.scenes}
        truth = pd.read_csv(task.root / "truth.csv", dtype=str)
        score = metric.score(
            truth[truth["scene"].isin(names)], result.submission, {n: thresholds[n] for n in thresholds if n in names}
        )
        for name, one in score.scenes.items():
            found = result.scenes.get(name)
            seconds = sum(s for stage, s in found.seconds.items() if stage not in MATCHING) if found else 0.0
            lines.append((name, one.score, found.counts["registered"] if found else 0, seconds))
    return pd.DataFrame(lines, columns=["scene", "mAA", "registered", "seconds"]).set_index("scene")


def ablate(tasks: Sequence[scenes.Task], config: Config, rows: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    run(tasks, config, out)  # keypoints and matches, once for all rows
    table: dict[str, dict[str, str]] = {}
    for name in rows:
        shutil.rmtree(out / "0" / "scenes", ignore_errors=True)  # so that verification counts in every row
        shutil.rmtree(out / "1" / "scenes", ignore_errors=True)
        found = run(tasks, ROWS[name](config), out)
        table[name] = {
            "mean": f"{found['mAA'].mean():.3f}",
            **{scene: f"{line.mAA:.3f} ({int(line.registered)})" for scene, line in found.iterrows()},
            "seconds": f"{found['seconds'].sum():.0f}",
        }
        said = pd.DataFrame.from_dict(table, orient="index")
        print(said.tail(1).to_string(), flush=True)
        lines = [["", *said.columns], ["---"] * (len(said.columns) + 1), *([row, *said.loc[row]] for row in said.index)]
        (out / "ablation.md").write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n", "utf-8")
    print(f"saved in {out / 'ablation.md'}")


def against_the_clock(tasks: Sequence[scenes.Task], config: Config, out: Path) -> None:
    """The same run with less and less time."""
    whole = None
    print(f"{'limit':>10} {'seconds':>8} {'mean mAA':>9}")
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
