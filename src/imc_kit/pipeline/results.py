"""The result of a run, and its files on disk, from which the same run resumes."""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap import model_files
from imc_kit.config import Config, plain
from imc_kit.data import atomic
from imc_kit.data.scenes import Task
from imc_kit.errors import KitError
from imc_kit.types import Model, Placement, Pose

_PACKAGES = ("imc-kit", "pycolmap", "opencv-python-headless", "numpy", "numba", "h5py", "kornia", "timm", "torch")


@dataclass(frozen=True, eq=False)
class SceneResult:
    """The result of one scene.

    placements: of every image of the scene as stored in its file (EXIF orientation undone), by image name.
    models: COLMAP's models of the upright images, largest first.
    counts: images, readable, rotated, pairs, matched and verified pairs, registered, models, points.
    seconds: by stage.
    notes: what went wrong, one sentence each.
    memory: peak bytes of this process (without COLMAP's) by stage, if the system reports it.
    rotation_quarters: for images rotated beyond their EXIF orientation, the number of further clockwise 90° rotations,
        1 to 3, by image name.
    """

    placements: dict[str, Placement]
    models: list[Model] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    rotation_quarters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its submission, and the best result of each scene by name."""

    submission: Path
    scenes: dict[str, SceneResult]
    failed: dict[str, str]
    """Why each failed scene failed, one sentence. Its rows have the poses in `scenes` if there are any, else
    placeholders."""


def write_run(
    path: Path, task: Task, config: Config, results: Mapping[str, SceneResult], failed: dict[str, str], seconds: float
) -> None:
    """Write run.json: configuration, versions, machine, and a summary of each scene."""
    given = {"input": task.root, "layout": task.layout, "notes": task.notes, "config": config}
    scenes = {name: _summary(result) for name, result in results.items()}
    write_json(path, given | environment() | {"seconds": round(seconds, 3), "scenes": scenes, "failed": failed})


def environment() -> dict[str, Any]:
    """The versions of Python and packages, and the machine."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "machine": {"system": platform.platform(), "cores": os.cpu_count()}}


def write_result(path: Path, identity: str, result: SceneResult) -> None:
    """Write the result of one scene. identity: identifies its images and configuration."""
    placements = {
        name: {"rotation": pose.rotation.tolist(), "translation": pose.translation.tolist(), "model": placement.model}
        for name, placement in result.placements.items()
        for pose in (placement.pose,)
    }
    content = {"identity": identity, **_summary(result), "rotation_quarters": result.rotation_quarters}
    write_json(path, {**content, "placements": placements})


def read_result(path: Path, identity: str) -> SceneResult | None:
    """The result that an earlier run wrote; None unless it has the same identity."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("identity") != identity:
            return None
        placements = {
            name: Placement(Pose(np.array(entry["rotation"]), np.array(entry["translation"])), entry["model"])
            for name, entry in content.pop("placements").items()
        }
        models = model_files.read_models(path.parent / "models") if content["counts"]["models"] else []
        return SceneResult(placements, models, **content)
    except (OSError, ValueError, KeyError, TypeError, KitError):
        return None


def _summary(result: SceneResult) -> dict[str, Any]:
    """A result without its poses and models."""
    return {"counts": result.counts, "seconds": result.seconds, "memory": result.memory, "notes": result.notes}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, completely or not at all (see `data.atomic.writing`)."""
    with atomic.writing(path) as file:
        file.write(json.dumps(content, indent=1, default=plain))
