"""Localise new photos in the finished scenes of a run, without changing the run."""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imc_kit.colmap import child
from imc_kit.config import restored
from imc_kit.data import images, submission
from imc_kit.data.listing import find_images, is_file, is_folder
from imc_kit.data.scenes import Task
from imc_kit.data.store import Store
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.errors import KitError, require, unknown_name
from imc_kit.export.model import SceneModel
from imc_kit.export.run import find_model
from imc_kit.metric.tables import aligned
from imc_kit.pipeline import run_files
from imc_kit.queries.scene import Answer, localise_in
from imc_kit.runtime import folders, progress
from imc_kit.runtime.executors import workers
from imc_kit.types import Scene

TABLE = "poses.csv"
COLUMNS = (
    "image_path", "dataset", "scene", *POSE_COLUMNS, "model", "status", "inliers", "matches", "matched_with", "reason"
)  # fmt: skip
"""Of `TABLE`. A submission has the first five."""
LOCALISED, NOT_LOCALISED = "localised", "not localised"

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Localised:
    """New photos in the scenes of a run; `str` is a table.

    folder: with poses.csv, and COLMAP's models. answers: by photo, in the model where most points fit.
    """

    folder: Path
    answers: dict[str, Answer]

    def __str__(self) -> str:
        rows = []
        for name, one in self.answers.items():
            near = one.reason or f"near {', '.join(one.neighbours[:3])}"
            rows.append((name, one.scene, one.number, f"{one.inliers}", f"{one.matches}", near))
        count = sum(answer.pose is not None for answer in self.answers.values())
        table = aligned(("photo", "scene", "model", "inliers", "matches", ""), rows)
        return f"{table}\n{count} of {len(rows)} photos are localised: {self.folder / TABLE}"


def localise(
    run: Path | str,
    queries: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    scenes: Sequence[str] = (),
    threads: int | None = None,
) -> Localised:
    """Find the poses of new photos in the scenes of a run. The run stays as it is.

    run: the folder that `solve` wrote. queries: a folder of photos, or image files.
    out: a new folder. It gets poses.csv, and COLMAP's models with the new photos, whose names begin with `queries/`.
        Poses are those of the photos as stored, in the world of the scene's model, as in the submission.
    scenes: try these; by default all that are finished.
    threads: as in `Config`; by default the run's.

    Each photo is matched with its most similar images of the model, with the configuration of the run. RANSAC finds its
    pose from the 3D points that they see. Then its pose, its intrinsics, unless it shares those of the scene, and the
    points are bundle-adjusted; the scene's own cameras stay fixed.

    Raises `KitError` when a scene is not finished, when its photos are gone or have changed, when no query is an
    image, and when `out` is not empty.
    """
    require(threads is None or threads >= 1, "threads", "at least 1", threads)
    run, out = Path(run), Path(out)
    content = run_files.read_run_json(run)
    config = replace(restored(content.get("config")), time_limit=None)
    config = replace(config, threads=threads or config.threads)
    if config.matches_photos:
        raise KitError(
            "the run used a matcher that takes photos, such as loftr, whose keypoints depend on the pairs: solve the "
            "new photos together with the scene, or solve the scene with other matchers"
        )
    asked, unusable = _photos([queries] if isinstance(queries, (str, Path)) else queries, out, config.max_pixels)
    models = _models(run, content, scenes)
    config.check()
    answers = {name: Answer("", reason=reason) for name, reason in unusable.items()}
    found: defaultdict[str, list[Answer]] = defaultdict(list)
    folders.make(out, empty=True)
    try:
        with TemporaryDirectory(prefix="imc-kit-") as work, child.loading(), workers(None, config.threads) as pool:
            store = Store(Path(work, "store"), run / "store")
            for number, model in enumerate(models):
                (folder := Path(work, str(number))).mkdir()
                try:
                    with progress.titled(model.name):
                        placed = localise_in(model, asked, config, store, out, folder, pool)
                except KitError as error:
                    if scenes or len(models) == 1:
                        raise
                    log.warning("%s is left out: %s", model.name, error)
                    continue
                for name, answer in placed.items():
                    found[name].append(answer)
        if not found:
            raise KitError(f"no scene of {run} can be used: the warnings before this say why")
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # if nothing was written
        raise
    answers |= {name: max(several, key=lambda one: (one.inliers, one.matches)) for name, several in found.items()}
    result = Localised(out, dict(sorted(answers.items())))
    submission.write(out / TABLE, COLUMNS, [_row(name, answer) for name, answer in result.answers.items()])
    return result


def _photos(given: Sequence[Path | str], out: Path, max_pixels: int) -> tuple[Scene, dict[str, str]]:
    """The photos in these files and folders as a scene, and why others cannot be used.

    Raises `KitError` if there are none.
    """
    paths: list[Path] = []
    for path in map(Path, given):
        if is_folder(path):
            listing = find_images(path, out)
            paths += [path / name for name in listing.images]
            for note in listing.notes():
                log.warning(note)
        elif is_file(path):
            paths.append(path)
        else:
            raise KitError(f"there is no file or folder {path}: give photos to localise")
    if not paths:
        raise KitError(f"there are no photos to localise in {', '.join(map(str, given))}")
    paths = [path.absolute() for path in paths]
    alone = len(given) == 1 and is_folder(given[0])
    root = Path(given[0] if alone else os.path.commonpath([path.parent for path in paths])).absolute()
    names, unusable = [], {}
    for path in dict.fromkeys(paths):
        name = path.relative_to(root).as_posix()
        try:
            images.probe(path, max_pixels)
            names.append(name)
        except KitError as error:
            unusable[name] = str(error)
    if not names:
        raise KitError(f"none of the {len(unusable)} photos can be used: {next(iter(unusable.values()))}")
    return Scene("queries", root, tuple(names)), unusable


def _models(run: Path, content: Mapping[str, Any], scenes: Sequence[str]) -> list[SceneModel]:
    """The models of these scenes, by default of all that have some.

    Raises `KitError` for a scene that is unknown, or that has none, and if no scene has any.
    """
    known, failed = content["scenes"], content.get("failed", {})
    task = run_files.input_task(content["input"], [*known, *failed], run)
    waiting = [name for name in run_files.requested(task, run) if name not in {*known, *failed}] if task else []
    every = [*known, *(name for name in failed if name not in known), *waiting]
    if unknown := [name for name in scenes if name not in every]:
        raise unknown_name("scene", unknown[0], every)
    models, without = [], {}
    for name in dict.fromkeys(scenes or every):
        found = _models_of(run, content, name, task)
        if isinstance(found, str):
            without[name] = found
        else:
            models += found
    for name, reason in without.items():
        if scenes or not models:
            raise KitError(f"nothing can be localised in {name}: {reason}")
        log.warning("%s is left out: %s", name, reason)
    if not models:
        raise KitError(f"{run} has no scenes: solve some first")
    return models


def _models_of(run: Path, content: Mapping[str, Any], name: str, task: Task | None) -> list[SceneModel] | str:
    """The models of a scene, largest first, or why there are none."""
    if name not in content["scenes"]:
        reason = content.get("failed", {}).get(name)
        return f"it could not be solved ({reason})" if reason else "it is not solved yet: let imc-kit solve finish"
    models = []
    for number in range(max(1, content["scenes"][name]["counts"]["models"])):
        model = find_model(run, content, name, task, number)
        if isinstance(model, str):
            return model
        models.append(model)
    if models[0].folder.is_relative_to(run / "quick"):
        return "it has only a quick answer: let imc-kit solve finish"
    if models[0].photos is None:
        return "its photos are not where they were: move them back, or solve it again"
    return models


def _row(name: str, answer: Answer) -> dict[str, str]:
    """A row of `TABLE`. The pose of a photo that is not localised is nan, as in 2025's submissions."""
    dataset, _, scene = answer.scene.rpartition("/")
    texts = format_pose(answer.pose) if answer.pose else submission.NO_POSE
    status = LOCALISED if answer.pose else NOT_LOCALISED
    values = (
        name, dataset or scene, scene, *texts, answer.number, status, f"{answer.inliers}", f"{answer.matches}",
        ";".join(answer.neighbours), answer.reason,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
