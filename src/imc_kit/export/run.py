"""Export the models of a run to other programs."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_kit.colmap import model_files
from imc_kit.data import submission
from imc_kit.data.decoding import MAX_PIXELS
from imc_kit.data.scenes import Task
from imc_kit.errors import KitError, unknown_name
from imc_kit.export.formats import FORMATS
from imc_kit.export.model import SceneModel
from imc_kit.metric.tables import aligned
from imc_kit.pipeline import run_files
from imc_kit.types import Placement

KAGGLE = "kaggle"
"""The format that is one submission of all scenes."""


@dataclass(frozen=True)
class Exported:
    """A scene in an export; `images` and `points` count those of its model. note: a remark, or why it was left out."""

    scene: str
    images: int = 0
    points: int = 0
    note: str = ""


@dataclass(frozen=True)
class Export:
    """What was exported, and where; `str` is a summary."""

    out: Path
    scenes: Sequence[Exported]

    def __str__(self) -> str:
        rows = [(one.scene, str(one.images), f"{one.points}", one.note) for one in self.scenes]
        return f"{aligned(('scene', 'images', 'points', ''), rows)}\nexported to {self.out}"


def export(run: Path, form: str, out: Path, scenes: Sequence[str] = (), number: int = 0) -> Export:
    """Export one model per scene of a run, in `out`/SCENE.

    form: one of `FORMATS`, or `KAGGLE`, which writes `out`/submission.csv from the files of the models.
    scenes: names; by default all scenes that have models. number: of the model, 0 for the largest.

    Raises `KitError` when a name is unknown, when there is no model to export, when `out` exists, and when a photo that
    the format needs is gone or has changed. Then `out` is not left behind.
    """
    if form not in (known := [*FORMATS, KAGGLE]):
        raise unknown_name("format", form, known)
    content = run_files.read_run_json(run)
    if unknown := [name for name in scenes if name not in content["scenes"]]:
        raise unknown_name("scene", unknown[0], content["scenes"])
    task = run_files.input_task(content["input"], [*content["scenes"]], run)
    chosen = [_find(run, content, name, task, number) for name in scenes or content["scenes"]]
    found = [one for one in chosen if isinstance(one, SceneModel)]
    missing = [one for one in chosen if isinstance(one, Exported)]
    if missing and (scenes or not found):
        raise KitError(f"nothing to export of {missing[0].scene}: {missing[0].note}")
    if not found:
        raise KitError(f"{run} has no models to export: no scene was solved")
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise KitError(f"{out} exists already: choose another --out, or delete it") from None
    except OSError as error:
        raise KitError(f"cannot make the folder {out}: {error.strerror}; choose another --out") from error
    try:
        if form == KAGGLE:
            _submit(task, found, out)
        exported = [_write(one, form, out) if isinstance(one, SceneModel) else one for one in chosen]
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return Export(out, exported)


def _find(run: Path, content: dict[str, Any], name: str, task: Task | None, number: int) -> SceneModel | Exported:
    """The model of a scene, or why there is none."""
    folder, result = run_files.scene_result(run, name, content["scenes"][name])
    if "stored_quarters" not in result:
        what = "is from another version" if result else "is missing or damaged"
        return Exported(name, note=f"its result.json {what}; run imc-kit solve again")
    count = result["counts"]["models"]
    if not 0 <= number < count:
        return Exported(name, note=f"it has {count} models, numbered from 0" if count else "it has no model")
    photos = next((scene for scene in task.scenes if scene.name == name), None) if task else None
    most = content.get("config", {}).get("max_pixels", MAX_PIXELS)
    return SceneModel(name, folder / "models" / str(number), result, photos, most)


def _write(scene: SceneModel, form: str, out: Path) -> Exported:
    """Write one scene in one of `FORMATS`."""
    model, count = model_files.read_model(scene.folder), scene.result["counts"]["models"]
    if form != KAGGLE:
        folder = out / scene.name
        folder.mkdir(parents=True)
        FORMATS[form](scene, folder)
    note = f"model {scene.folder.name} of {count}, the largest is 0; see --model" if count > 1 else ""
    return Exported(scene.name, len(model.poses), len(model.points), note)


def _submit(task: Task | None, scenes: Sequence[SceneModel], out: Path) -> None:
    """Write a submission of these scenes: the poses of the models' files, which may have changed since the run."""
    if task is None:
        raise KitError("the input of the run is gone, so the rows of a submission are unknown: move it back")
    task, placements = task.only(*(scene.name for scene in scenes)), {}
    for scene in scenes:
        folders = sorted(scene.folder.parent.iterdir()) if task.predicts_scene else [scene.folder]
        placed: dict[str, Placement] = {}
        for model, folder in enumerate(folders):
            for name, pose in model_files.read_model(folder).poses.items():
                placed.setdefault(name, Placement(pose, model))
        placements[scene.name] = placed
    rows = submission.compose(task.rows, placements, predict_scene=task.predicts_scene)
    submission.write(out / "submission.csv", task.columns, rows)
