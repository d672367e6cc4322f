"""Reads the folder of a run, finished or not, and scores the run: the content of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit import metric
from imc_kit.colmap import database, database_files, model_files, verification
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.pipeline import run_files
from imc_kit.pipeline.results import model_digests
from imc_kit.types import Model, Scene
from imc_kit.viz.advice import Advice, advise
from imc_kit.viz.pairs import Counts, block_order


@dataclass(frozen=True, eq=False)
class Matched:
    """Counts from a scene's COLMAP database: keypoints by image, matches and inliers by pair."""

    path: Path | None = None
    keypoints: Mapping[str, int] = field(default_factory=dict)
    matches: Counts = field(default_factory=dict)
    inliers: Counts = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SceneRun:
    """The files of one scene of a run."""

    name: str
    layout: str
    quick: bool
    """True for a quick answer: the run ended before the full one."""
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    notes: Sequence[str]
    gone: Sequence[str]
    """What cannot be shown, and why, one sentence each."""
    names: Sequence[str]
    """All images, in `block_order`."""
    rotation_quarters: Mapping[str, int]
    """By image: see `SceneResult`."""
    models: Sequence[Model]
    members: Sequence[Sequence[str]]
    """The images of each model, known even if the model's files are gone."""
    matched: Matched
    photos: Scene | None
    """The scene with its photos, if they still exist."""
    scored: metric.OfScene
    """The score, empty if unknown."""

    @property
    def model_of(self) -> dict[str, int]:
        """For each registered image, the number of the largest model that contains it."""
        return {name: number for number in reversed(range(len(self.members))) for name in self.members[number]}

    @property
    def out(self) -> set[str]:
        """The images that do not count as registered: only the largest model counts, in 2025 every model."""
        counted = self.members if self.layout == "2025" else self.members[:1]
        return set(self.names).difference(*counted)

    @property
    def advice(self) -> list[Advice]:
        known = self.members, self.names, self.matched.keypoints, self.matched.inliers
        return advise(*known, self.notes, self.scored.accuracy, separate=self.layout == "2025")


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run: the content of run.json, and its scenes.

    failed: the reason for each scene without a result. waiting: the scenes that the run did not reach.
    scores: by scene of the truth, solved or not.
    """

    content: Mapping[str, Any]
    layout: str
    scenes: Sequence[SceneRun]
    failed: Mapping[str, str]
    waiting: Sequence[str]
    scores: Mapping[str, metric.OfScene]

    @property
    def requested(self) -> set[str]:
        """The names of all scenes that the run was to solve."""
        return {*(scene.name for scene in self.scenes), *self.failed, *self.waiting}

    @property
    def mean(self) -> float | None:
        """The mean score of the requested scenes, solved or not; in 2023, the mean over datasets of their means.

        It equals the result of `imc-kit score` if the truth has no other scenes.
        """
        groups: dict[str, list[float]] = {}
        for name, scored in self.scores.items():
            if scored.accuracy is not None and name in self.requested:
                groups.setdefault(name.split("/")[0] if self.layout == "2023" else name, []).append(scored.accuracy)
        return float(np.mean([np.mean(group) for group in groups.values()])) if groups else None

    @property
    def notes(self) -> list[str]:
        """Notes on more than one scene, one sentence each."""
        notes, requested = [], self.requested
        quick = sum(scene.quick for scene in self.scenes)
        counts = {"are not solved yet": len(self.waiting), "have only a quick answer": quick}
        parts = " and ".join(f"{n} of {len(requested)} scenes {what}" for what, n in counts.items() if n)
        if parts:
            resume = "unless it still runs, the same imc-kit solve command resumes it"
            notes.append(f"The run is not finished: {parts}; {resume}")
        others = [name for name, scored in self.scores.items() if name not in requested and scored.accuracy is not None]
        if others:
            named, what = ", ".join(others[:10]) + (" …" if len(others) > 10 else ""), measure(self.layout)
            notes.append(f"The mean {what} leaves out scenes of the truth that are not in this run: {named}")
        return [*notes, *self.content.get("notes", [])]


def measure(layout: str) -> str:
    """The name of the year's score."""
    return "score" if layout == "2025" else "mAA"


def read_run(run: Path, truth: Path | str | None = None, thresholds: Path | str | None = None) -> RunFolder:
    """Read the folder of a run; arguments and errors as for `report.write_report`."""
    content = run_files.read_run_json(run)
    submission, scores = run / "submission.csv", {}
    if thresholds is not None and truth is None:
        raise KitError(f"the distances in {thresholds} need the true poses: give --truth")
    if truth is not None:
        distances, _ = metric.distances_of(truth, thresholds)
        table = read_table(truth, ("dataset", "scene"))
        names = dict.fromkeys([*table["scene"], *(table["dataset"] + "/" + table["scene"])])  # both forms are in use
        scores = metric.score_scenes(content["layout"], names, truth, submission, distances)
    failed: Mapping[str, str] = content.get("failed", {})
    known = [*content["scenes"], *failed]
    task = run_files.input_task(content["input"], known, run)
    photos = {scene.name: scene for scene in task.scenes} if task else {}
    scenes = [_read_scene(run, name, content, photos.get(name), scores.get(name)) for name in content["scenes"]]
    without = {name: reason for name, reason in failed.items() if name not in content["scenes"]}
    waiting = [name for name in run_files.requested(task, run) if name not in known] if task else []
    return RunFolder(content, content["layout"], scenes, without, waiting, scores)


def _read_scene(
    run: Path, name: str, content: Mapping[str, Any], photos: Scene | None, scored: metric.OfScene | None
) -> SceneRun:
    """content: of run.json."""
    account, failure = content["scenes"][name], content.get("failed", {}).get(name)
    folder, result = run_files.scene_result(run, name, account)
    models: list[Model] = []
    matched, gone = Matched(), list[str]()
    if result:
        models, no_models = _models(folder / "models", account["counts"]["models"], result)
        matched, no_matches = _matched(folder)
        gone += filter(None, (no_models, no_matches))
    else:
        gone.append(
            "The scene's result.json is missing, damaged or from another run: models and matches are not shown."
        )
    if photos is None:
        gone.append("The photos are not where they were: pairs and thumbnails are not shown.")
    account = {"memory": {}, "rotation_quarters": {}, "placements": {}, **result, **account}
    placements = account["placements"]
    return SceneRun(
        name,
        content["layout"],
        quick=failure is None and folder.is_relative_to(run / "quick"),
        **{key: account[key] for key in ("counts", "seconds", "memory", "rotation_quarters")},
        notes=[*account["notes"], *([f"the steps after this answer failed: {failure}"] if failure else [])],
        gone=gone,
        names=block_order(sorted(placements), matched.inliers or matched.matches),
        models=models,
        members=[sorted(model.poses) for model in models] or _members(placements),
        matched=matched,
        photos=photos,
        scored=scored or metric.OfScene({}, None),
    )


def _models(folder: Path, expected: int, result: Mapping[str, Any]) -> tuple[list[Model], str]:
    """The models, or none and the reason. result: of the scene."""
    try:
        if folder.is_dir() and result["files"] != model_digests(folder.parent):
            raise KitError(f"cannot read the COLMAP model in {folder}: its files have changed")
        models = model_files.read_models(folder, result.get("stored_quarters")) if folder.is_dir() else []
    except (KitError, OSError) as error:
        return [], f"The models are not shown: {error}."
    return models, "" if models or not expected else "The scene's models were deleted: they are not shown."


def _matched(folder: Path) -> tuple[Matched, str]:
    """The counts in the scene's database, or none and the reason."""
    path = folder / database_files.NAME
    if not path.exists():
        return Matched(), "The scene's database was deleted, or is an earlier version's: matches are not shown."
    try:
        if not database_files.is_whole(path):
            raise KitError("its content has changed")
        counts = database.keypoint_counts(path), database.match_counts(path), verification.inlier_counts(path)
    except Exception as error:  # of any kind: the file may be damaged or by someone else
        return Matched(), f"Matches are not shown: cannot read the COLMAP database {path} ({error})."
    return Matched(path, *counts), ""


def _members(placements: Mapping[str, Any]) -> list[list[str]]:
    """The images of each model, from the placements of all images."""
    models = {name: placement["model"] for name, placement in placements.items() if placement["model"] is not None}
    return [sorted(name for name in models if models[name] == n) for n in range(max(models.values(), default=-1) + 1)]
