"""Several configurations on the same scenes, side by side: accuracy, features, matches, time.

`compare` solves every scene with every configuration, tries each one's features where the answer is known
(`repeatability`), and puts all of it into one table, a JSON file and a page.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_kit import metric
from imc_kit.colmap import database, verification
from imc_kit.compare.repeatability import CHANGES, Change, RepeatabilityConfig, Repeated, average, measure
from imc_kit.config import PRESETS, Config, FeaturePipeline, feature_pipeline, fingerprint, preset
from imc_kit.data import atomic, images, tables
from imc_kit.data.scenes import Task, load
from imc_kit.detectors import DETECTORS
from imc_kit.errors import KitError, unknown_name
from imc_kit.pipeline import results
from imc_kit.pipeline import run as pipeline_run
from imc_kit.runtime.executors import workers
from imc_kit.types import Scene

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One configuration on one scene. None is not known, or not defined.

    scene: None where the configuration could not run at all.
    accuracy: the mAA, where the truth is known; also of a scene that failed, whose poses are placeholders.
    keypoints: mean of the images.
    verified_pairs: how many have inliers; inliers_mean and inliers_median are over these.
    repeated: by kind of change, see `repeatability`.
    seconds: by stage, of the run that solved it.
    remarks: what went wrong, one sentence each.
    """

    configuration: str
    scene: str | None
    images: int | None = None
    registered: int | None = None
    accuracy: float | None = None
    keypoints: float | None = None
    verified_pairs: int | None = None
    inliers_mean: float | None = None
    inliers_median: float | None = None
    repeated: Mapping[Change, Repeated] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def solved(self) -> bool:
        return self.registered is not None

    @property
    def overall(self) -> Repeated | None:
        """The mean over the kinds of change."""
        return average(list(self.repeated.values()))

    @property
    def total(self) -> float | None:
        """Seconds of all stages."""
        return sum(self.seconds.values()) if self.seconds else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows, by configuration and then by scene, and where compare.csv, compare.json and compare.html are."""

    rows: tuple[Row, ...]
    out: Path

    @property
    def table(self) -> pd.DataFrame:
        """One row for each configuration and scene, nan where something is not known; what compare.csv holds."""
        return _frame(self.rows)

    @property
    def summary(self) -> pd.DataFrame:
        """One row for each configuration: images, registered, verified pairs and seconds are sums over its scenes, all
        else is the mean over those where it is known."""
        return _frame(summarize(self.rows)).drop(columns="scene")

    def __str__(self) -> str:
        """The summary, as far as it fits a terminal."""
        import pandas as pd

        lines = []
        for row in summarize(self.rows):
            tried = row.overall or Repeated(None, None, None)
            cells = {
                "images": (row.images, "{}"),
                "registered": (row.registered, "{}"),
                "mAA": (row.accuracy, "{:.3f}"),
                "keypoints": (row.keypoints, "{:.0f}"),
                "verified pairs": (row.verified_pairs, "{}"),
                "inliers": (row.inliers_median, "{:.0f}"),
                "repeatability": (tried.repeatability, "{:.3f}"),
                "matching accuracy": (tried.matching_accuracy, "{:.3f}"),
                "matching score": (tried.matching_score, "{:.3f}"),
                "seconds": (row.total, "{:.1f}"),
            }
            texts = {name: "–" if value is None else form.format(value) for name, (value, form) in cells.items()}
            lines.append({"": row.configuration, **texts})
        return pd.DataFrame(lines).to_string(index=False)


def configurations(names: Iterable[str]) -> dict[str, Config]:
    """Configurations by name: a preset, or DETECTOR+MATCHER, which is the sift preset with these two.

    Raises `KitError` with the nearest name for one that does not exist.
    """
    return {name: _configuration(name) for name in names}


def _configuration(name: str) -> Config:
    if name in PRESETS:
        return preset(name)
    if "+" not in name:
        raise unknown_name("configuration", name, [*PRESETS, *(f"{one}+nearest" for one in DETECTORS if one != "none")])
    one = feature_pipeline(name)
    return replace(preset("sift"), detector=one.detector, matcher=one.matcher)


def compare(
    task: Task | Path | str,
    configs: Mapping[str, Config],
    out: Path | str,
    *,
    truth: Path | str | None = None,
    thresholds: Path | str | None = None,
    scenes: Sequence[str] | None = None,
    repeatability: RepeatabilityConfig | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Run each configuration on each scene, and write `out`/compare.csv, compare.json and compare.html.

    task: as `solve` takes it.
    configs: by the names that they have in the results; `configurations` makes them from names.
    out: each configuration is solved into `out`/NAME, as by `solve`. The same call again takes up where an earlier one
        was stopped; the seconds of a scene are those of the call that finished it, so they are short for one that was
        interrupted.
    truth, thresholds: files as for `imc-kit score`; the mAA is then known.
    scenes: only these; all when left out.
    repeatability: how the features are tried.
    executor: as for `solve`.

    A configuration that cannot run is one row that says why, and a scene that fails is another. Raises `KitError` when
    there is no configuration, the input, the truth or the thresholds cannot be read, plotly is missing, or `out` cannot
    be written.
    """
    from imc_kit.compare.page import write_comparison
    from imc_kit.viz.palette import package

    package("plotly.graph_objects")  # found out now, not after hours
    task = _restricted(task if isinstance(task, Task) else load(task), scenes)
    out = Path(out).absolute()
    if not configs:
        raise KitError("there is nothing to compare: name a configuration at least")
    for name in configs:
        if name in ("", "..") or Path(name).name != name:
            raise KitError(f"configuration {name!r} cannot be the name of a folder: call it otherwise")
    distances = None if thresholds is None else metric.read_thresholds(thresholds)
    if truth is not None:
        tables.read_table(truth, tables.POSE_COLUMNS)
    tried = repeatability or RepeatabilityConfig()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot make the folder {out}: {error.strerror}; choose another one") from error
    rows: list[Row] = []
    for number, (name, config) in enumerate(configs.items(), 1):
        log.info("%s (configuration %d of %d)", name, number, len(configs))
        try:
            run = pipeline_run.solve(task, out / name, config, executor=executor)
        except Exception as error:  # whatever it is, the others can still be compared
            reason = _reason(error)
            log.error("%s cannot run: %s", name, reason, exc_info=not isinstance(error, KitError))
            rows.append(Row(name, None, remarks=(f"could not run: {reason}",)))
            continue
        scored: Mapping[str, metric.OfScene] = {}
        if truth is not None:
            names = [scene.name for scene in task.scenes]
            scored = metric.score_scenes(task.layout, names, truth, run.submission, distances)
        for scene in task.scenes:
            accuracy = scored[scene.name].accuracy if scene.name in scored else None
            row = Row(name, scene.name, len(scene.images), accuracy=accuracy)
            if scene.name in run.scenes:
                folder = out / name / "scenes" / scene.name
                row = _counted(row, run.scenes[scene.name], folder)
                row = _tried(row, scene, folder, config, tried, executor)
            else:
                row = replace(row, remarks=(f"could not be solved: {run.failed[scene.name]}",))
            rows.append(row)
    comparison = Comparison(tuple(rows), out)
    _write(comparison, task, configs, tried)
    write_comparison(comparison.rows, out / "compare.html", task.root.name)
    return comparison


def summarize(rows: Iterable[Row]) -> list[Row]:
    """One row for each configuration, in their order, whose scene is None: see `Comparison.summary`."""
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row.configuration, []).append(row)
    return [_summary(name, own) for name, own in of.items()]


def _summary(name: str, rows: Sequence[Row]) -> Row:
    def total(value: Callable[[Row], int | None]) -> int | None:
        known = [one for one in map(value, rows) if one is not None]
        return sum(known) if known else None

    def mean(value: Callable[[Row], float | None]) -> float | None:
        known = [one for one in map(value, rows) if one is not None]
        return float(np.mean(known)) if known else None

    repeated = {change: average([row.repeated[change] for row in rows if change in row.repeated]) for change in CHANGES}
    stages = dict.fromkeys(stage for row in rows for stage in row.seconds)
    return Row(
        name,
        None,
        total(lambda row: row.images),
        total(lambda row: row.registered),
        mean(lambda row: row.accuracy),
        mean(lambda row: row.keypoints),
        total(lambda row: row.verified_pairs),
        mean(lambda row: row.inliers_mean),
        mean(lambda row: row.inliers_median),
        {change: one for change, one in repeated.items() if one is not None},
        {stage: sum(row.seconds.get(stage, 0.0) for row in rows) for stage in stages},
        tuple(f"{row.scene}: {remark}" if row.scene else remark for row in rows for remark in row.remarks),
    )


# ---- one row ----


def _counted(row: Row, result: results.SceneResult, folder: Path) -> Row:
    """The row with what the run left of the scene."""
    found = next(iter(sorted(folder.glob("database-*.db"))), None)
    keypoints = list(database.keypoint_counts(found).values()) if found else []
    inliers = list(verification.inlier_counts(found).values()) if found else []
    return replace(
        row,
        registered=result.counts["registered"],
        keypoints=float(np.mean(keypoints)) if keypoints else None,
        verified_pairs=result.counts["verified pairs"],
        inliers_mean=float(np.mean(inliers)) if inliers else None,
        inliers_median=float(np.median(inliers)) if inliers else None,
        seconds=result.seconds,
        remarks=tuple(result.notes),
    )


def _tried(
    row: Row, scene: Scene, folder: Path, config: Config, tried: RepeatabilityConfig, executor: Executor | None
) -> Row:
    """The row with how the features of the configuration's first feature_pipeline do, measured now or before."""
    feature_pipeline = config.feature_pipelines[0]
    count = min(tried.photographs, len(scene.images))
    chosen = np.linspace(0, len(scene.images) - 1, 2 * count + 1).round().astype(int)[1::2]
    paths = [scene.path(scene.images[number]) for number in chosen]
    path = folder / "repeatability.json"
    try:
        identity = fingerprint(feature_pipeline, tried, [images.digest(path) for path in paths])
        found = _read(path, identity)
        if found is None:
            with workers(executor, config.threads) as pool:
                jobs = ([feature_pipeline] * count, paths, range(count), [tried] * count)
                found = [one for some in pool.map(_measure, *jobs) for one in some]
            results.write_json(
                path, {"identity": identity, "views": [{"change": change, **asdict(one)} for change, one in found]}
            )
    except Exception as error:  # the scene is solved all the same
        log.warning("%s: repeatability is not known: %s", scene.name, error, exc_info=not isinstance(error, KitError))
        return replace(row, remarks=(*row.remarks, f"repeatability is not known: {_reason(error)}"))
    means = {change: average([one for kind, one in found if kind == change]) for change in CHANGES}
    return replace(row, repeated={change: one for change, one in means.items() if one is not None})


def _measure(
    feature_pipeline: FeaturePipeline, path: Path, number: int, tried: RepeatabilityConfig
) -> list[tuple[Change, Repeated]]:
    return measure(feature_pipeline, images.load(path, tried.load_side), number, tried)


def _read(path: Path, identity: str) -> list[tuple[Change, Repeated]] | None:
    """What an earlier call measured, if it was the same."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["identity"] != identity:
            return None
        return [(view.pop("change"), Repeated(**view)) for view in content["views"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"


def _restricted(task: Task, names: Sequence[str] | None) -> Task:
    """The task of solving these scenes alone."""
    if names is None:
        return task
    known = {scene.name: scene for scene in task.scenes}
    for name in names:
        if name not in known:
            raise unknown_name("scene", name, known)
    chosen = tuple(scene for scene in task.scenes if scene.name in names)
    return replace(task, scenes=chosen, rows=tuple(row for row in task.rows if row.scene in names))


# ---- writing ----


def _flat(row: Row) -> dict[str, Any]:
    """The row of a table, but for its remarks: they come last, behind the stages of all rows."""
    overall = row.overall
    flat: dict[str, Any] = {
        "configuration": row.configuration,
        "scene": row.scene,
        "images": row.images,
        "registered": row.registered,
        "mAA": row.accuracy,
        "keypoints": row.keypoints,
        "verified_pairs": row.verified_pairs,
        "inliers_mean": row.inliers_mean,
        "inliers_median": row.inliers_median,
    }
    for share in ("repeatability", "matching_accuracy", "matching_score"):
        flat[share] = None if overall is None else getattr(overall, share)
        for change in CHANGES:
            one = row.repeated.get(change)
            flat[f"{share}_{change}"] = None if one is None else getattr(one, share)
    flat["seconds"] = row.total
    flat |= {f"seconds_{stage}": seconds for stage, seconds in row.seconds.items()}
    return flat


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([_flat(row) for row in rows])
    table["remarks"] = ["; ".join(row.remarks) for row in rows]
    whole = ["images", "registered", "verified_pairs"]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _write(comparison: Comparison, task: Task, configs: Mapping[str, Config], tried: RepeatabilityConfig) -> None:
    with atomic.writing(comparison.out / "compare.csv") as file:
        comparison.table.to_csv(file, index=False)
    results.write_json(
        comparison.out / "compare.json",
        {
            "input": str(task.root),
            "layout": task.layout,
            **results.environment(),
            "configurations": configs,
            "repeatability": tried,
            "rows": [asdict(row) for row in comparison.rows],
        },
    )
