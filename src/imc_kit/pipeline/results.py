"""The result of a run, and its record on disk, from which the same run is resumed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
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

    placements: by image name, for every image of the scene, as it is stored (EXIF orientation undone).
    models: COLMAP's models, largest first, in upright images.
    counts: images, readable, rotated, pairs, matched and verified pairs, registered, models, points.
    seconds: by stage.
    notes: what went wrong on the way, one sentence each.
    memory: by stage, the peak in bytes of this process (without COLMAP's), where the system tells.
    rotation_quarters: of each image that was rotated beyond its EXIF orientation, the clockwise 90° rotations, 1 to 3,
        that make it upright.
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
    """Why a scene failed, one sentence. Its rows have the poses of `scenes` if it is there, else placeholders."""


def write_run(
    path: Path, task: Task, config: Config, results: Mapping[str, SceneResult], failed: dict[str, str], seconds: float
) -> None:
    """Write run.json: configuration, versions, machine, and an account of each scene."""
    write_json(
        path,
        {
            "input": str(task.root),
            "layout": task.layout,
            "notes": task.notes,
            "config": config,
            **environment(),
            "seconds": round(seconds, 3),
            "scenes": {name: _account(result) for name, result in results.items()},
            "failed": failed,
        },
    )


def environment() -> dict[str, Any]:
    """Versions and machine."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "machine": {"system": platform.platform(), "cores": os.cpu_count()}}


def write_result(path: Path, identity: str, result: SceneResult) -> None:
    """Write the result of one scene. identity: names its images and configuration."""
    placements = {
        name: {
            "rotation": placement.pose.rotation.tolist(),
            "translation": placement.pose.translation.tolist(),
            "model": placement.model,
        }
        for name, placement in result.placements.items()
    }
    content = {"identity": identity, **_account(result), "rotation_quarters": result.rotation_quarters}
    write_json(path, {**content, "placements": placements})


def read_result(path: Path, identity: str) -> SceneResult | None:
    """The result that an earlier run wrote; None unless it was for the same images and configuration."""
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


def _account(result: SceneResult) -> dict[str, Any]:
    """A result without its poses and models."""
    return {"counts": result.counts, "seconds": result.seconds, "memory": result.memory, "notes": result.notes}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, completely or not at all (see `data.atomic.writing`)."""
    with atomic.writing(path) as file:
        file.write(json.dumps(content, indent=1, default=plain))
