"""What an option or a technique is worth: judged over all scenes and several seeds, against the preset as it is.

    python benchmarks/ablation.py ROOT … [--preset sift] [--seeds 0 1 2] [--scenes A B] [--rows NAME …] [--out DIR]
                                         [--options="--subpixel.no-on --refinement.no-on" …]
    python benchmarks/ablation.py ROOT … --time-limits [--preset sift] [--scenes A B] [--out DIR]

Each ROOT has a competition's layout, with truth.csv and thresholds.json (distances by scene). Without --scenes, a
rendered turntable is added. A row is one of the techniques below, switched off or on, or any options of `imc-kit
solve`. All rows share the keypoints and matches in DIR unless their options change them, so the seconds of a row are
those of verification and everything after it. ablation.md and ablation.csv are rewritten after every row.

The last table compares each row with the first, *all*. *Spread*: the least and the largest mean over seeds.
*Difference*: of the means over seeds, averaged over scenes, with its standard error over scenes and the p-value of
Wilcoxon's signed-rank test. *Chosen*: in how many of the folds the row has the best mean over all other scenes. Below
it, the mean of those choices on the scenes left out is what choosing by this table gives on a scene that is not in it,
and *best per scene and seed* is what a perfect choice among the rows would give.

With --time-limits, the whole run is timed from scratch, then repeated with a time limit of a tenth, three tenths and
all of that time.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from imc_kit import explore
from imc_kit.cli.solve import Solve
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
    parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="scenes, truth.csv and thresholds.json")
    parser.add_argument("--preset", default="sift", help="default: sift")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--scenes", nargs="+", help="use only these, and no turntable")
    parser.add_argument("--max-images", type=int, default=70, help="leave larger scenes out; default: 70")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME", help="default: all, if there are no options")
    parser.add_argument("--options", action="append", default=[], help="a row with these options of imc-kit solve")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablation", help="%(default)s")
    parser.add_argument("--time-limits", action="store_true", help="measure time limits instead of techniques")
    arguments = parser.parse_args()
    tasks = []
    for task in map(scenes.load, arguments.roots):
        small = [scene.name for scene in task.scenes if len(scene.images) <= arguments.max_images]
        wanted = [name for name in small if not arguments.scenes or name in arguments.scenes]
        tasks += [task.only(*wanted)] if wanted else []
    if missing := set(arguments.scenes or ()) - {scene.name for task in tasks for scene in task.scenes}:
        raise KitError(f"no ROOT has the scenes {', '.join(sorted(missing))}, or they are larger than --max-images")
    if arguments.time_limits:
        compare_time_limits(tasks, preset(arguments.preset), arguments.out)
        return
    names = arguments.rows or ([] if arguments.options else list(ROWS))
    rows = {name: ROWS[name](preset(arguments.preset)) for name in dict.fromkeys(["all", *names])}
    rows |= {options: configured(arguments.preset, options) for options in arguments.options}
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.scenes:
            write_turntable(Path(folder))
            tasks.append(scenes.load(Path(folder)))
        ablate(tasks, rows, arguments.seeds, arguments.out)


def configured(preset: str, options: str) -> Config:
    """The preset with options of the command line."""
    return Solve.parse("solve", [".", "--out", ".", "--preset", preset, *shlex.split(options)]).config


def run(tasks: Sequence[scenes.Task], config: Config, out: Path) -> pd.DataFrame:
    """mAA, registered images and seconds after matching, by scene."""
    lines = []
    for number, task in enumerate(tasks):
        shutil.rmtree(out / str(number) / "scenes", ignore_errors=True)  # so that each row verifies the matches again
        result = solve(task, out / str(number), config)
        for name, one in explore.score(task, result.submission).scenes.items():
            found = result.scenes.get(name)
            seconds = sum(s for stage, s in found.seconds.items() if stage not in SHARED_STAGES) if found else 0.0
            lines.append((name, one.score, found.counts["registered"] if found else 0, seconds))
    return pd.DataFrame(lines, columns=["scene", "mAA", "registered", "seconds"])


def ablate(tasks: Sequence[scenes.Task], rows: dict[str, Config], seeds: Sequence[int], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, config in rows.items():
        for seed in seeds:
            found.append(run(tasks, dataclasses.replace(config, seed=seed), out).assign(row=name, seed=seed))
        every = pd.concat(found)
        every.to_csv(out / "ablation.csv", index=False)
        tables = [by_scene(every), compared(every)]
        (out / "ablation.md").write_text("\n\n".join(tables) + "\n", "utf-8")
        print(by_scene(found[-1] if len(seeds) == 1 else every[every["row"] == name]), flush=True)
    print(f"\n{compared(every)}\n\nsaved in {out / 'ablation.md'}")


def by_scene(found: pd.DataFrame) -> str:
    """A table of the means over seeds: mAA (registered images) by row and scene, and the seconds of one seed."""
    cells = {}
    for name, row in found.groupby("row", sort=False):
        means = row.groupby("scene", sort=False)[["mAA", "registered"]].mean()
        cells[name] = {
            "mean": f"{means['mAA'].mean():.3f}",
            **{scene: f"{line.mAA:.3f} ({line.registered:g})" for scene, line in means.round(3).iterrows()},
            "seconds": f"{row['seconds'].sum() / row['seed'].nunique():.0f}",
        }
    return markdown(pd.DataFrame.from_dict(cells, orient="index"))


def compared(found: pd.DataFrame) -> str:
    """A table that compares each row with the first, and what choosing among the rows would give."""
    by_seed = found.pivot_table(index="row", columns="seed", values="mAA", sort=False)
    scores = found.pivot_table(index="scene", columns="row", values="mAA", sort=False)  # means over seeds
    first = scores.columns[0]
    others = (scores.sum() - scores) / max(1, len(scores) - 1)  # of each scene: the means over all other scenes
    chosen = others.idxmax(axis=1)
    cells = {}
    for name in scores:
        change = scores[name] - scores[first]
        error = change.std() / np.sqrt(len(change)) if len(change) > 1 else 0.0
        p = wilcoxon(change).pvalue if change.any() else 1.0
        cells[name] = {
            "mean": f"{scores[name].mean():.3f}",
            "spread": f"{by_seed.loc[name].min():.3f}–{by_seed.loc[name].max():.3f}",
            "difference": f"{change.mean():+.3f} ± {error:.3f}",
            "p": f"{p:.2f}",
            "better, worse by 0.02": f"{(change > 0.02).sum()}, {(change < -0.02).sum()}",
            "chosen": f"{(chosen == name).sum()} of {len(chosen)}",
        }
    left_out = np.mean([scores.loc[scene, name] for scene, name in chosen.items()])
    runs = found.pivot_table(index=["scene", "seed"], columns="row", values="mAA", sort=False)
    best = runs.max(axis=1)
    near = (runs[first] >= best - 0.01).mean()
    return (
        f"{markdown(pd.DataFrame.from_dict(cells, orient='index'))}\n\n"
        f"Chosen on all scenes but one, on that one: {left_out:.3f}. Best per scene and seed: {best.mean():.3f}; "
        f"*{first}* is within 0.01 of it in {near:.0%} of {len(best)}."
    )


def markdown(cells: pd.DataFrame) -> str:
    lines = [["", *cells.columns], ["---"] * (len(cells.columns) + 1), *([r, *cells.loc[r]] for r in cells.index)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
