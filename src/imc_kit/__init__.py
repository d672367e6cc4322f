"""imc_kit: from folders of photos to camera poses, for image matching competitions.

    import imc_kit

    run = imc_kit.solve("photos", out="out")
    for scene in run.scenes.values():
        for image, placement in scene.placements.items():
            print(image, placement.pose.center)

Importing the package is fast: each name below is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imc_kit.config import PRESETS, Config, preset
    from imc_kit.data.scenes import Task, load
    from imc_kit.errors import KitError
    from imc_kit.metric import score, score_2023, score_2025
    from imc_kit.pipeline.classified import PairClassifier
    from imc_kit.pipeline.run import Run, SceneResult, solve
    from imc_kit.queries.run import localise
    from imc_kit.types import Features, Matches, Model, Placement, Pose, Scene

_HOMES = {
    "config": ("PRESETS", "Config", "preset"),
    "errors": ("KitError",),
    "metric": ("score", "score_2023", "score_2025"),
    "pipeline.classified": ("PairClassifier",),
    "pipeline.run": ("Run", "SceneResult", "solve"),
    "data.scenes": ("Task", "load"),
    "queries.run": ("localise",),
    "types": ("Features", "Matches", "Model", "Placement", "Pose", "Scene"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PRESETS", "Config", "Features", "KitError", "Matches", "Model", "PairClassifier", "Placement", "Pose", "Run",
    "Scene", "SceneResult", "Task", "load", "localise", "preset", "score", "score_2023", "score_2025", "solve",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'imc_kit' has no attribute {name!r}")
    return getattr(import_module(f"imc_kit.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
