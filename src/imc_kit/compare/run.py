"""Run several configurations on the same scenes and compare them: accuracy, features, matches, time.

`compare` solves every scene with every configuration, measures each one's features on warped images (`repeatability`),
and writes the results as a table, a JSON file and a page.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imc_kit import metric
from imc_kit.colmap import database, database_files, database_reading, verification
from imc_kit.compare.page import SHARES, SamePairs, write_comparison
from imc_kit.compare.repeatability import CHANGES, Measured, RepeatabilityConfig, mean, measure
from imc_kit.compare.rows import Row, by_change, summarize, verdicts
from imc_kit.config import PRESETS, Config, FeaturePipeline, feature_pipeline, pipeline_names, preset
from imc_kit.data import atomic, images, tables
from imc_kit.data.scenes import Task, load
from imc_kit.detectors import DETECTORS
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.errors import KitError, require, said, unknown_name
from imc_kit.pipeline import results
from imc_kit.pipeline import run as pipeline_run
from imc_kit.pipeline.out_folder import scene_folder
from imc_kit.runtime import folders
from imc_kit.runtime.executors import workers
from imc_kit.types import Scene
from imc_kit.viz.palette import package
from imc_kit.viz.report_scene import pair_uri

log = logging.getLogger(__name__)

_PRINTED = {
    "configuration": "{}", "images": "{}", "registered": "{}", "mAA": "{:.3f}",
    "keypoints": "{:.0f}", "verified_pairs": "{}", "inliers_median": "{:.0f}", "repeatability": "{:.3f}",
    "matching_accuracy": "{:.3f}", "matching_score": "{:.3f}", "seconds": "{:.1f}",
}  # fmt: skip
"""The columns of the summary that fit a terminal, and their formats."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows, sorted by configuration, then scene. `out` holds compare.csv, compare.json and compare.html."""

    rows: tuple[Row, ...]
    out: Path

    @property
    def table(self) -> pd.DataFrame:
        """One row for each configuration and scene, nan for unknown values; compare.csv has the same."""
        return _frame(self.rows)

    @property
    def summary(self) -> pd.DataFrame:
        """One row for each configuration.

        Images, registered images, verified pairs and seconds are sums over its scenes, and means over the seeds. All
        other columns are means over the scenes where they are known.
        """
        return _frame(summarize(self.rows)).drop(columns=["scene", "seed"])

    def __str__(self) -> str:
        """The columns of the summary that fit a terminal, and with several seeds which differences count."""
        table = self.summary
        shown = {name.replace("_", " "): table[name].map(form.format, "ignore") for name, form in _PRINTED.items()}
        return "\n".join([pd.DataFrame(shown).to_string(index=False, na_rep="–"), *verdicts(self.rows)])


def configurations(names: Iterable[str]) -> dict[str, Config]:
    """Configurations by name: a preset, or DETECTOR+MATCHER for the sift preset with these two.

    Raises `KitError` with the nearest name for an unknown one.
    """
    found = {}
    for name in names:
        if name in DETECTORS and name not in PRESETS:
            matcher = "loftr" if name == NoDetectorConfig.name else "nearest"
            raise KitError(f"configuration {name!r} is a detector without a matcher: did you mean '{name}+{matcher}'?")
        if name not in PRESETS and "+" not in name:
            raise unknown_name("configuration", name, [*PRESETS, *pipeline_names()])
        found[name] = PRESETS.get(name) or replace(preset("sift"), **vars(feature_pipeline(name)))
    return found


def compare(
    task: Task | Path | str,
    configs: Mapping[str, Config],
    out: Path | str,
    *,
    truth: Path | str | None = None,
    thresholds: Path | str | None = None,
    scenes: Sequence[str] | None = None,
    seeds: int = 1,
    repeatability: RepeatabilityConfig | None = None,
) -> Comparison:
    """Run each configuration on each scene, and write `out`/compare.csv, compare.json and compare.html.

    task: as for `solve`.
    configs: by their names in the results; `configurations` makes them from names.
    out: `solve` writes each configuration to `out`/NAME. The same call resumes an interrupted comparison. The seconds
        of a scene are those of the call that finished it, so they are too small for a scene that was interrupted.
    truth, thresholds: files as for `imc-kit score`; with them the mAA is known.
    scenes: only these; all by default.
    seeds: how many random seeds each configuration runs with. The first is its own; those after it, S, are solved in
        `out`/NAME-seed-S.
    repeatability: which warped images the features are measured on.

    A configuration that cannot run is one row that says why, and so is a scene that fails. Raises `KitError` when there
    is no configuration, when the input, the truth or the thresholds cannot be read, when plotly is missing, and when
    `out` cannot be written.
    """
    package("plotly.graph_objects")  # a missing package fails now, not after hours
    task = task if isinstance(task, Task) else load(task, out=out)
    task = task if scenes is None else task.only(*scenes)
    out = Path(out).absolute()
    if not configs:
        raise KitError("there is nothing to compare: name at least one configuration")
    for name in configs:
        if name in ("", "..") or Path(name).name != name:
            raise KitError(f"configuration {name!r} cannot be the name of a folder: give it another name")
    if thresholds is not None and truth is None:
        raise KitError(f"the distances in {thresholds} need the true poses: give --truth")
    distances, source = metric.distances_of(truth, thresholds) if truth else (None, "")
    if truth is not None:
        tables.read_table(truth, tables.POSE_COLUMNS)
    tried = repeatability or RepeatabilityConfig()
    require(seeds >= 1, "seeds of a comparison", "at least 1", seeds)
    folders.make(out)
    rows: list[Row] = []
    solved: dict[str, Mapping[str, results.SceneResult]] = {}
    seeded = ((extra, name, config) for extra in range(seeds) for name, config in configs.items())
    runs = [(name, replace(config, seed=config.seed + extra), extra) for extra, name, config in seeded]
    for number, (name, config, extra) in enumerate(runs, 1):
        log.info("%s%s (run %d of %d)", name, f", seed {config.seed}" if seeds > 1 else "", number, len(runs))
        place = out / (f"{name}-seed-{config.seed}" if extra else name)
        try:
            run = pipeline_run.solve(task, place, config)
        except Exception as error:  # of any kind: the others can still be compared
            log.error("%s cannot run: %s", name, said(error), exc_info=not isinstance(error, KitError))
            rows.append(Row(name, None, remarks=(f"could not run: {said(error)}",), seed=config.seed))
            continue
        if not extra:
            solved[name] = run.scenes
        names = [scene.name for scene in task.scenes]
        scored = {} if truth is None else metric.score_scenes(task.layout, names, truth, run.submission, distances)
        for scene in task.scenes:
            folder = scene_folder(run.submission.parent / "scenes", scene.name)
            row = _row(name, run, scene, scored.get(scene.name), folder, config.seed)
            measured = scene.name in run.scenes and not extra  # the features are the same for every seed
            rows.append(_with_repeatability(row, scene, config, tried) if measured else row)
    rows.sort(key=lambda row: list(configs).index(row.configuration))
    comparison = Comparison(tuple(rows), out)
    _write(comparison, task, configs, tried)
    version = results.environment()["versions"].get("imc-kit", "")
    about = "; ".join([str(task.root), *([f"mAA with {source}"] if truth else []), f"imc-kit {version}"])
    pairs = _same_pairs(task, solved, out)
    write_comparison(comparison.rows, out / "compare.html", task.root.name, about, configs, pairs)
    return comparison


# ---- one row ----


def _row(name: str, run: results.Run, scene: Scene, scored: metric.OfScene | None, folder: Path, seed: int) -> Row:
    """The row of one scene, from the run and the scene's folder, without the measures on warped images."""
    row = Row(name, scene.name, len(scene.images), accuracy=scored.accuracy if scored else None, seed=seed)
    if scene.name not in run.scenes:
        return replace(row, remarks=(f"could not be solved: {run.failed[scene.name]}",))
    result, path = run.scenes[scene.name], folder / database_files.NAME
    known = path.exists()
    inliers = [*verification.inlier_counts(path).values()] if known else []
    return replace(
        row,
        registered=result.counts["registered"],
        keypoints=mean(database.keypoint_counts(path).values()) if known else None,
        verified_pairs=result.counts["verified pairs"],
        inliers_mean=mean(inliers),
        inliers_median=float(np.median(inliers)) if inliers else None,
        seconds=result.seconds,
        remarks=tuple(result.notes),
    )


def _with_repeatability(row: Row, scene: Scene, config: Config, tried: RepeatabilityConfig) -> Row:
    """The row with the measures of the configuration's first feature pipeline."""
    count = min(tried.photos, len(scene.images))
    chosen = np.linspace(0, len(scene.images) - 1, 2 * count + 1).round().astype(int)[1::2]
    paths = [scene.path(scene.images[number]) for number in chosen]
    try:
        with workers(None, config.threads) as pool:
            pipelines = [config.feature_pipelines[0]] * count
            photos = [*pool.map(_measure, pipelines, paths, range(count), [tried] * count)]
    except Exception as error:  # the scene is solved anyway
        log.warning("%s: repeatability is not known: %s", scene.name, error, exc_info=not isinstance(error, KitError))
        return replace(row, remarks=(*row.remarks, f"repeatability is not known: {said(error)}"))
    found = [warp for photo in photos if not isinstance(photo, str) for warp in photo]
    lost = (f"repeatability is measured without a photo: {photo}" for photo in photos if isinstance(photo, str))
    return replace(row, repeated=by_change(found), remarks=(*row.remarks, *lost))


def _measure(one: FeaturePipeline, path: Path, number: int, tried: RepeatabilityConfig) -> Measured | str:
    """The measures of a photo, or why it cannot be read."""
    try:
        photo = images.load(path, tried.load_side)
    except KitError as error:
        return str(error)
    return measure(one, photo, number, tried)


# ---- the same pair ----


def _same_pairs(task: Task, solved: Mapping[str, Mapping[str, results.SceneResult]], out: Path) -> SamePairs:
    """The matches of one pair of images by each configuration.

    solved: scenes by configuration. The pair has the median number of inliers in the first one that solved the scene.
    """
    shown: SamePairs = {}
    for scene in task.scenes:
        paths = {name: out / name / "scenes" / scene.name / database_files.NAME for name in solved}
        found = {name: path for name, path in paths.items() if scene.name in solved[name] and path.exists()}
        counts = verification.inlier_counts(next(iter(found.values()))) if found else {}
        if not counts:
            continue
        pair = sorted(counts, key=lambda pair: (counts[pair], pair))[len(counts) // 2]
        for name, path in found.items():
            matches, inliers = database_reading.read_pair(path, *pair)
            label = f"{name}: {inliers.sum()} of {len(matches)} matches are inliers"
            pictures = shown.setdefault(f"{scene.name}: {' and '.join(pair)}", {})
            pictures[label] = pair_uri(scene, solved[name][scene.name].rotation_quarters, path, pair)
    return shown


# ---- writing ----


def _flat(row: Row) -> dict[str, Any]:
    """The columns of a row, without its remarks, which come last, after the stages of all rows."""
    last = ("repeated", "seconds", "remarks")
    flat = {one.name: getattr(row, one.name) for one in fields(row) if one.name not in last}
    for name in SHARES:
        flat[name] = getattr(row.overall, name, None)
        flat |= {f"{name}_{change}": getattr(row.repeated.get(change), name, None) for change in CHANGES}
    return flat | {"seconds": row.total} | {f"seconds_{stage}": value for stage, value in row.seconds.items()}


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    table = pd.DataFrame([_flat(row) for row in rows]).rename(columns={"accuracy": "mAA"})
    table["remarks"] = ["; ".join(row.remarks) for row in rows]
    return table.astype(dict.fromkeys(("images", "registered", "verified_pairs"), "Int64"))


def _write(comparison: Comparison, task: Task, configs: Mapping[str, Config], tried: RepeatabilityConfig) -> None:
    with atomic.writing(comparison.out / "compare.csv") as file:
        comparison.table.to_csv(file, index=False)
    content = {"input": str(task.root), "layout": task.layout, **results.environment(), "configurations": configs}
    content |= {"repeatability": tried, "rows": [asdict(row) for row in comparison.rows]}
    results.write_json(comparison.out / "compare.json", content)
