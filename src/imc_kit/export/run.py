"""Export the models of a run to other programs."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imc_kit.colmap import model_files
from imc_kit.data import submission
from imc_kit.data.scenes import Task
from imc_kit.data.store import Store
from imc_kit.errors import KitError, unknown_name
from imc_kit.export.formats import FORMATS
from imc_kit.export.model import SceneModel
from imc_kit.metric.tables import aligned
from imc_kit.pipeline import run_files
from imc_kit.runtime import folders
from imc_kit.types import Placement

KAGGLE = "kaggle"
"""The format that is one submission of all scenes."""


def export(run: Path, form: str, out: Path, scenes: Sequence[str] = (), number: int = 0) -> str:
    """Export one model per scene of a run, in `out`/SCENE; returns a summary.

    form: one of `FORMATS`, or `KAGGLE`, which writes `out`/submission.csv from the files of the models.
    scenes: names; by default all scenes that have models. number: of the model, 0 for the largest.

    Raises `KitError` when a name is unknown, when there is no model to export, when `out` is not empty, and when a
    photo that the format needs is gone or has changed. Then `out` is not left behind.
    """
    if form not in (known := [*FORMATS, KAGGLE]):
        raise unknown_name("format", form, known)
    content = run_files.read_run_json(run)
    if unknown := [name for name in scenes if name not in content["scenes"]]:
        raise unknown_name("scene", unknown[0], content["scenes"])
    task = run_files.input_task(content["input"], [*content["scenes"]], run)
    found, rows = [], []
    for name in scenes or content["scenes"]:
        model = find_model(run, content, name, task, number)
        if isinstance(model, str):
            if scenes:
                raise KitError(f"nothing to export of {name}: {model}")
            rows.append((name, "", "", f"left out: {model}"))
        else:
            found.append(model)
    if not found:
        why = f"{rows[0][0]} is {rows[0][3]}" if rows else "no scene was solved"
        raise KitError(f"{run} has no models to export: {why}")
    folders.make(out, empty=True)
    try:
        if form == KAGGLE:
            _submit(task, found, out)
        rows = [_write(model, form, out) for model in found] + rows
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return f"{aligned(('scene', 'images', 'points', ''), rows)}\nexported to {out}"


def find_model(
    run: Path, content: Mapping[str, Any], name: str, task: Task | None, number: int = 0
) -> SceneModel | str:
    """The model of a scene, or why there is none."""
    folder, result = run_files.scene_result(run, name, content["scenes"][name])
    if "stored_quarters" not in result:
        return "its result.json is missing, damaged or from another version; run imc-kit solve again"
    count = result["counts"]["models"]
    if not 0 <= number < count:
        return f"it has {count} models, numbered from 0" if count else "it has no model"
    photos = next((scene for scene in task.scenes if scene.name == name), None) if task else None
    return SceneModel(name, folder / "models" / str(number), result, photos, Store(run / "store"))


def _write(scene: SceneModel, form: str, out: Path) -> tuple[str, str, str, str]:
    """Write one scene in one of `FORMATS`; returns its row of the summary."""
    model, count = model_files.read_model(scene.folder), scene.result["counts"]["models"]
    note = f"model {scene.folder.name} of {count} (0 is the largest): choose with --model" if count > 1 else ""
    if form != KAGGLE:
        folder = out / scene.name
        folder.mkdir(parents=True)
        remark = FORMATS[form](scene, folder)
        note = note if remark is None else remark
    return scene.name, str(len(model.poses)), str(len(model.points)), note


def _submit(task: Task | None, scenes: Sequence[SceneModel], out: Path) -> None:
    """Write a submission of these scenes: the poses of the models' files, which may have changed since the run."""
    if task is None:
        raise KitError("the input of the run is gone, so the rows of a submission are unknown: move it back")
    task, placements = task.only(*(scene.name for scene in scenes)), {}
    for scene in scenes:
        every = sorted(scene.folder.parent.iterdir(), key=lambda path: int(path.name))
        poses = [model_files.read_model(one).poses for one in (every if task.predicts_scene else [scene.folder])]
        largest_last = [*enumerate(poses)][::-1]
        placed = {name: Placement(pose, model) for model, named in largest_last for name, pose in named.items()}
        placements[scene.name] = placed
    rows = submission.compose(task.rows, placements, predict_scene=task.predicts_scene)
    submission.write(out / "submission.csv", task.columns, rows)
