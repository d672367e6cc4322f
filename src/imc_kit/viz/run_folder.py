"""What a run left in its folder, finished or not, and what the metric says of it: read for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit import metric
from imc_kit.colmap import database, model_files, verification
from imc_kit.data.scenes import SPLITS, Task, load
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.types import Model, Scene
from imc_kit.viz.advice import Advice, advise
from imc_kit.viz.pairs import Counts, block_order

_HINT = "is this the folder of a finished run (--out of imc-kit solve), or of one that has solved a scene?"


@dataclass(frozen=True, eq=False)
class SceneRun:
    """What a run left of one scene."""

    name: str
    layout: str
    quick: bool
    """Whether this is a quick answer, and the run ended before the full one."""
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    notes: Sequence[str]
    gone: Sequence[str]
    """What cannot be shown, and why, one sentence each."""
    names: Sequence[str]
    """All images, in `block_order`."""
    turns: Mapping[str, int]
    """Of photographs that were turned upright: see `SceneResult`."""
    models: Sequence[Model]
    members: Sequence[Sequence[str]]
    """The images of each model, also where its files are gone."""
    database: Path | None
    keypoints: Mapping[str, int]
    matches: Counts
    inliers: Counts
    photos: Scene | None
    """Where the photographs are, if they are still there."""
    scored: metric.OfScene | None

    @property
    def model_of(self) -> dict[str, int]:
        """The number of the largest model that has an image."""
        return {name: number for number in reversed(range(len(self.members))) for name in self.members[number]}

    @property
    def out(self) -> set[str]:
        """The images that no model registered; where models have no common frame, that the largest did not."""
        counted = self.members if self.separate else self.members[:1]
        return set(self.names).difference(*counted)

    @property
    def separate(self) -> bool:
        """Whether every model is a scene of its own."""
        return self.layout == "2025"

    @property
    def accuracy(self) -> float | None:
        return self.scored.accuracy if self.scored else None

    @property
    def aligned(self) -> Mapping[int, metric.SceneScore]:
        """How the cameras lie beside the truth, by the number of their model; nothing where it is not known."""
        return self.scored.models if self.scored else {}

    @property
    def advice(self) -> list[Advice]:
        return advise(
            self.members, self.names, self.keypoints, self.inliers, self.notes, self.accuracy, separate=self.separate
        )


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run: what run.json says, and what there is of its scenes.

    failed: scenes without a result, and why. waiting: those that the run had not come to when it ended.
    scores: by the scenes of the truth, whatever became of them.
    """

    content: Mapping[str, Any]
    scenes: Sequence[SceneRun]
    failed: Mapping[str, str]
    waiting: Sequence[str]
    scores: Mapping[str, metric.OfScene]

    @property
    def layout(self) -> str:
        return str(self.content["layout"])

    @property
    def count(self) -> int:
        """Of scenes that were asked for."""
        return len(self.scenes) + len(self.failed) + len(self.waiting)

    @property
    def mean(self) -> float | None:
        """The mean score of the scenes that were asked for; in 2023 the mean over datasets of the means over scenes.

        It is what `imc-kit score` says of the submission where the truth has no others: a scene that was not solved
        counts.
        """
        groups: dict[str, list[float]] = {}
        for name, scored in self.scores.items():
            if scored.accuracy is not None and name in self._asked:
                groups.setdefault(name.split("/")[0] if self.layout == "2023" else name, []).append(scored.accuracy)
        return float(np.mean([np.mean(group) for group in groups.values()])) if groups else None

    @property
    def _asked(self) -> set[str]:
        return {*(scene.name for scene in self.scenes), *self.failed, *self.waiting}

    @property
    def notes(self) -> list[str]:
        """What concerns more than one scene, one sentence each."""
        notes = []
        quick = sum(scene.quick for scene in self.scenes)
        if self.waiting or quick:
            waiting = f"{len(self.waiting)} of {self.count} scenes are not solved yet" if self.waiting else ""
            some = f"{quick} of {self.count} scenes have only a quick answer" if quick else ""
            parts = " and ".join(filter(None, (waiting, some)))
            notes.append(f"The run is not finished: {parts}; the same imc-kit solve command goes on from there")
        asked = self._asked
        strange = [name for name, scored in self.scores.items() if name not in asked and scored.accuracy is not None]
        if strange:
            named = ", ".join(strange[:10]) + (" …" if len(strange) > 10 else "")
            notes.append(
                f"The mean {measure(self.layout)} leaves out the scenes of the truth that are not of this run: {named}"
            )
        return [*notes, *self.content.get("notes", [])]


def measure(layout: str) -> str:
    """What the year's score is called."""
    return "score" if layout == "2025" else "mAA"


def read_run(run: Path, truth: Path | str | None = None, thresholds: Path | str | None = None) -> RunFolder:
    """What the folder of a run holds; arguments and errors as those of `report.write_report`."""
    content = _read_json(run / "run.json")
    if not all(isinstance(content.get(key), kind) for key, kind in _NEEDED.items()):
        raise KitError(f"{run / 'run.json'} is not what imc-kit solve writes: {_HINT}")
    scores = {} if truth is None else _scores(content["layout"], truth, run / "submission.csv", thresholds)
    failed: Mapping[str, str] = content.get("failed", {})
    known = [*content["scenes"], *failed]
    task = _task(content["input"], known)
    photos = {scene.name: scene for scene in task.scenes} if task else {}
    scenes = [
        _read_scene(run, name, account, content["layout"], failed.get(name), photos.get(name), scores.get(name))
        for name, account in content["scenes"].items()
    ]
    without = {name: reason for name, reason in failed.items() if name not in content["scenes"]}
    asked = _asked(task, run / "submission.csv") if task else set()
    waiting = [name for name in photos if name in asked and name not in known]
    return RunFolder(content, scenes, without, waiting, scores)


_NEEDED = {"input": str, "layout": str, "scenes": dict}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {path} ({error}): {_HINT}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} holds no JSON object: {_HINT}")
    return content


def _scores(
    layout: str, truth: Path | str, submission: Path, thresholds: Path | str | None
) -> Mapping[str, metric.OfScene]:
    """What the metric says of all scenes of the truth."""
    distances = None if thresholds is None else metric.read_thresholds(thresholds)
    table = read_table(truth, ("dataset", "scene"))
    # As either is what a scene may be called.
    names = dict.fromkeys([*table["scene"], *(table["dataset"] + "/" + table["scene"])])
    return metric.score_scenes(layout, names, truth, submission, distances)


def _task(root: str, known: Sequence[str]) -> Task | None:
    """The input as it is on disk now, by the split that has most of the scenes; None where it has gone."""
    best, most = None, 0
    for split in SPLITS:
        try:
            task = load(root, split)
        except KitError:
            continue
        common = len({scene.name for scene in task.scenes}.intersection(known))
        if common > most:
            best, most = task, common
    return best


def _asked(task: Task, submission: Path) -> set[str]:
    """The scenes that a submission has rows of."""
    columns = list(task.keys[0])
    try:
        table = read_table(submission, columns)
    except KitError:
        return set()
    present = set(table[columns].itertuples(index=False, name=None))
    return {row.scene for key, row in zip(task.keys, task.rows, strict=True) if tuple(key.values()) in present}


def _read_scene(
    run: Path,
    name: str,
    account: Mapping[str, Any],
    layout: str,
    failure: str | None,
    photos: Scene | None,
    scored: metric.OfScene | None,
) -> SceneRun:
    """account: what run.json says of the scene."""
    folder, result = _result(run, name, account)
    models: list[Model] = []
    data, (keypoints, matches, inliers) = None, _NOTHING
    if result is None:
        gone = ["The scene's result.json is gone, or of another run: models and matches are not shown."]
    else:
        models, no_models = _models(folder / "models", account["counts"]["models"])
        data, (keypoints, matches, inliers), no_matches = _database(folder)
        gone = [why for why in (no_models, no_matches) if why]
    placements: Mapping[str, Any] = result["placements"] if result else {}
    if photos is None:
        gone.append("The photographs are not where they were: pairs and thumbnails are not shown.")
    account = {**account, **(result or {})}
    return SceneRun(
        name=name,
        layout=layout,
        quick=failure is None and folder.is_relative_to(run / "quick"),
        counts=account["counts"],
        seconds=account["seconds"],
        memory=account.get("memory", {}),
        notes=[*account["notes"], *([f"what came after this answer failed: {failure}"] if failure else [])],
        gone=gone,
        names=block_order(sorted(placements), inliers or matches),
        turns=account.get("rotation_quarters", {}),
        models=models,
        members=[sorted(model.poses) for model in models] or _members(placements),
        database=data,
        keypoints=keypoints,
        matches=matches,
        inliers=inliers,
        photos=photos,
        scored=scored,
    )


def _result(run: Path, name: str, account: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any] | None]:
    """The folder with the result that run.json tells of, and that result; None where there is none.

    A run with a time limit has two, of which the full one may be of an earlier run.
    """
    for part in ("scenes", "quick"):
        folder = run / part / name
        try:
            result = _read_json(folder / "result.json")
        except KitError:
            continue
        if all(result.get(key) == account[key] for key in ("counts", "seconds")):
            return folder, result
    return run / "scenes" / name, None


def _models(folder: Path, expected: int) -> tuple[list[Model], str]:
    """The models, or none and why."""
    try:
        models = model_files.read_models(folder) if folder.is_dir() else []
    except KitError as error:
        return [], f"The models are not shown: {error}."
    return models, "" if models or not expected else "The scene's models were deleted: they are not shown."


_Numbers = tuple[Mapping[str, int], Counts, Counts]
"""Keypoints of images, matches and inliers of pairs."""
_NOTHING: _Numbers = ({}, {}, {})


def _database(folder: Path) -> tuple[Path | None, _Numbers, str]:
    """Where the database is, and what is in it; or nothing, and why."""
    path = next(iter(sorted(folder.glob("database-*.db"))), None)
    if path is None:
        return None, _NOTHING, "The scene's database was deleted: matches are not shown."
    try:
        numbers = database.keypoint_counts(path), database.match_counts(path), verification.inlier_counts(path)
    except RuntimeError as error:  # pycolmap's
        return None, _NOTHING, f"Matches are not shown: cannot read the COLMAP database {path} ({error})."
    return path, numbers, ""


def _members(placements: Mapping[str, Any]) -> list[list[str]]:
    """The images of each model, by the placements of all."""
    models = {name: placement["model"] for name, placement in placements.items() if placement["model"] is not None}
    return [sorted(name for name in models if models[name] == n) for n in range(max(models.values(), default=-1) + 1)]
