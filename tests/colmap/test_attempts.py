"""Which attempt at a scene is kept, and when there are no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imc_kit.colmap import attempts
from imc_kit.colmap.attempts import attempt_all
from imc_kit.colmap.child import ColmapError
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.types import Model, Pose, Scene

SCENE = Scene("scene", Path("nowhere"), tuple("abcdefghij"))
ATTEMPTS = (MappingConfig(), MappingConfig(min_strength=0.7), MappingConfig("global"))


def outcome(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], enough: float = 1.0, trusted: float = 0.9
) -> tuple[int | None, int, list[str]]:
    """Which attempt was kept, how many were made, and the notes.

    results: for each attempt the number of images and the support, or None for no model, or an error.
    """
    made: list[MappingConfig] = []

    def map_scene(database: Path, images: Path, folder: Path, config: MappingConfig, *_: Any) -> list[Model]:
        made.append(config)
        result = results[len(made) - 1]
        if isinstance(result, Exception):
            raise result
        if result is None:
            return []
        return [Model(folder, {name: Pose.identity() for name in SCENE.images[: result[0]]})]

    def support(database: Path, model: Model, pairs: list[tuple[str, str]]) -> float:
        assert pairs == [("a", "b"), ("b", "c")]  # (a, c) is weak
        return float(results[len(made) - 1][1])

    monkeypatch.setattr(attempts.mapping, "map_scene", map_scene)
    monkeypatch.setattr(attempts, "support", support)
    monkeypatch.setattr(attempts, "inlier_counts", lambda _: {("a", "b"): 90, ("b", "c"): 50, ("a", "c"): 20})
    best, notes = attempt_all(Path("db"), SCENE, Path("out"), ATTEMPTS, enough, trusted, Path("log"), 1, 0)
    assert made == list(ATTEMPTS[: len(made)])
    kept = int(best.models[0].folder.name.removeprefix("models-")) if best.models else None
    return kept, len(made), notes


@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([(10, 0.95)], 0, 1),  # all images, and trusted
        ([(10, 0.8), (10, 0.95)], 1, 2),  # the first one is folded
        ([(10, 0.8), (10, 0.805), (10, 0.7)], 0, 3),  # hardly better
        ([(7, 0.99), (7, 0.98), (10, 0.98)], 2, 3),  # images count first
        ([(10, 0.8), (4, 1.0), (9, 1.0)], 0, 3),
        ([None, (3, 0.5), None], 1, 3),
        ([None, None, None], None, 3),
        ([ColmapError("crashed"), (10, 0.95)], 1, 2),
    ],
)
def test_the_choice(monkeypatch: pytest.MonkeyPatch, results: list[Any], kept: int | None, made: int) -> None:
    found_kept, found_made, notes = outcome(monkeypatch, results)
    assert (found_kept, found_made) == (kept, made)
    assert notes == [str(result) for result in results if isinstance(result, Exception)]


def test_fewer_images_can_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, [(8, 0.95), (10, 0.95)], enough=0.8)[:2] == (0, 1)
    assert outcome(monkeypatch, [(7, 0.95), (10, 0.95)], enough=0.8)[:2] == (1, 2)
    assert outcome(monkeypatch, [(10, 0.5), (10, 0.95)], trusted=0.5)[:2] == (0, 1)
