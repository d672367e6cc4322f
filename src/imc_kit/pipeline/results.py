"""The result of a run, and its files on disk, from which the same run resumes."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap import model_files
from imc_kit.config import Config, plain
from imc_kit.data import atomic
from imc_kit.data.images import digest
from imc_kit.data.scenes import Task
from imc_kit.errors import said
from imc_kit.metric import ScoredFiles
from imc_kit.metric.tables import aligned
from imc_kit.runtime.progress import duration
from imc_kit.types import Alignment, Model, Placement, Pose

log = logging.getLogger(__name__)

_SHOWN = 3
"""Warnings of each scene in the text of a run: with hundreds of damaged photos, there are as many."""
_PACKAGES = ("imc-kit", "pycolmap", "opencv-python-headless", "numpy", "numba", "h5py", "kornia", "timm", "torch")
_QUARTERS = "rotation_quarters", "stored_quarters"


@dataclass(frozen=True, eq=False)
class SceneResult:
    """The result of one scene.

    placements: of every image of the scene as stored in its file (EXIF orientation undone), by image name.
    models: COLMAP's models, largest first: poses of the upright images. Their files describe the images as stored.
    counts: images, readable, rotated, pairs, matched and verified pairs, registered, models, points.
    seconds: by stage.
    notes: what went wrong, one sentence each.
    memory: peak bytes of this process (without COLMAP's) by stage, if the system reports it.
    rotation_quarters: for images rotated beyond their EXIF orientation, the number of further clockwise 90° rotations,
        1 to 3, by image name.
    stored_quarters: for images that the models' files describe rotated, the number of clockwise 90° rotations, 1 to 3,
        that make them upright, by image name.
    """

    placements: dict[str, Placement]
    models: list[Model] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    rotation_quarters: dict[str, int] = field(default_factory=dict)
    stored_quarters: dict[str, int] = field(default_factory=dict)

    @property
    def alignment(self) -> Alignment | None:
        """How the first model got into metres; None if it did not."""
        return self.models[0].alignment if self.models else None


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its submission, and the best result of each scene by name."""

    submission: Path
    scenes: dict[str, SceneResult]
    failed: dict[str, str]
    """Why each failed scene failed, one sentence. Its rows have the poses in `scenes` if there are any, else
    placeholders."""
    score: ScoredFiles | None = None
    """The score, if it was asked for."""

    def __str__(self) -> str:
        """A table of scenes, alignments, first warnings and failures, the score if there is one, the submission."""
        rows = [
            (name, *(f"{result.counts.get(key, 0)}" for key in ("images", "registered", "models")),
             duration(sum(result.seconds.values())), str(len(result.notes)))
            for name, result in self.scenes.items()
        ]  # fmt: skip
        parts = [aligned(("scene", "images", "registered", "models", "time", "warnings"), rows)] if rows else []
        parts += [f"{name}: {result.alignment}" for name, result in self.scenes.items() if result.alignment]
        for name, result in self.scenes.items():
            more = len(result.notes) - _SHOWN
            parts += [f"{name}: {note}" for note in result.notes[:_SHOWN]]
            parts += [f"{name}: {more} more warnings, in run.json"] if more > 0 else []
        parts += [f"{name} could not be solved: {reason}" for name, reason in self.failed.items()]
        parts += [f"\n{self.score}\n"] if self.score else []
        return "\n".join([*parts, f"submission: {self.submission}"])


def write_run(
    path: Path,
    task: Task,
    config: Config,
    results: Mapping[str, SceneResult],
    failed: Mapping[str, str],
    seconds: float,
    warned: Iterable[str] = (),
    score: ScoredFiles | None = None,
) -> None:
    """Write run.json: configuration, versions, machine, a summary of each scene, and the score if it is known.

    warned: all warnings of the run. Those that are not on a scene become notes on the run.
    """
    told = {f"{name}: {note}" for name, result in results.items() for note in result.notes}
    told |= {note for result in results.values() for note in result.notes}
    told |= {*task.notes, *failed.values(), *(f"{name}: {reason}" for name, reason in failed.items())}
    notes = [*task.notes, *(warning for warning in warned if warning not in told)]
    given = {"input": task.root, "layout": task.layout, "notes": notes, "config": config}
    scenes = {name: _summary(result) for name, result in results.items()}
    given |= environment() | {"seconds": round(seconds, 3), "scenes": scenes, "failed": failed}
    write_json(path, given | ({"score": score.to_json()} if score else {}))


@cache  # run.json is written after each scene
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
    content = {"identity": identity, **_summary(result), **{name: getattr(result, name) for name in _QUARTERS}}
    content |= {"placements": placements, "files": model_digests(path.parent)}
    write_json(path, {**content, "digest": content_digest(content)})


def read_result(path: Path, identity: str) -> SceneResult | None:
    """The result that an earlier run wrote; None unless it has the same identity and is undamaged."""
    try:
        content = read_content(path)
        if content["identity"] != identity:
            return None
        if content["files"] != model_digests(path.parent):
            raise ValueError("its models have changed since they were written")
        placements = {
            name: Placement(Pose(np.array(entry["rotation"]), np.array(entry["translation"])), entry["model"])
            for name, entry in content["placements"].items()
        }
        given = {key: content[key] for key in ("counts", "seconds", "notes", "memory", *_QUARTERS)}
        folder, quarters = path.parent / "models", content["stored_quarters"]
        models = model_files.read_models(folder, quarters) if content["counts"]["models"] else []
        return SceneResult(placements, models, **given)
    except FileNotFoundError:
        return None
    except Exception as error:  # of any kind: whatever is wrong with it, the scene can be solved again
        log.warning("%s cannot be used (%s): the scene is solved again", path, said(error))
        return None


def read_content(path: Path) -> dict[str, Any]:
    """The content of a scene's result file. Raises an error of any kind if it is damaged."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if content.pop("digest", None) != content_digest(content):
        raise ValueError("it has changed since it was written")
    return content


def content_digest(content: Any) -> str:
    """A hash of what a result file holds, except this hash itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_digests(folder: Path) -> dict[str, str]:
    """The digests of all files of a scene's models, by their paths in the scene's folder."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for pattern in ("*.bin", model_files.ALIGNMENT)
        for path in sorted(folder.glob(f"models/*/{pattern}"))
    }


def _summary(result: SceneResult) -> dict[str, Any]:
    """A result without its poses and models; with the alignment of the first model to metres, if there is one."""
    said = {"counts": result.counts, "seconds": result.seconds, "memory": result.memory, "notes": result.notes}
    return said | ({"alignment": asdict(result.alignment)} if result.alignment else {})


def write_json(path: Path, content: Any) -> None:
    """Write JSON, completely or not at all (see `data.atomic.writing`)."""
    with atomic.writing(path) as file:
        file.write(json.dumps(content, indent=1, default=plain))
