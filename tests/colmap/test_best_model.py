"""What is tried when the best of the mapping runs does not fit. Other intrinsics are in `test_recalibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imc_kit.colmap import best_model, mapping_runs
from imc_kit.colmap.best_model import map_best
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.duplicates import Distinct
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import RunPolicy
from imc_kit.colmap.support import Judgement
from imc_kit.types import Model, Pair, Pose, Scene

SCENE = Scene("scene", Path("nowhere"), tuple("abcdefghij"))
INLIERS = {("a", "b"): 90, ("b", "c"): 50, ("a", "c"): 20}


@pytest.mark.parametrize(
    ("images", "supports", "adopted"),
    [
        (10, (0.99, 0.97), True),
        (10, (1.0, 1.0), False),  # none disagree
        (10, (0.98, 0.97), False),  # about as many matches disagree
        (10, (0.94, 0.5), False),  # it fits no better than a collapsed model
        (4, (0.99, 0.5), False),
    ],
)
def test_the_model_without_doubtful_pairs_has_to_agree_much_better(
    monkeypatch: pytest.MonkeyPatch, images: int, supports: tuple[float, float], adopted: bool
) -> None:
    """supports: of the two models by the pairs that are left. The first model has all images."""

    def mapped(database: Path, root: Path, config: MappingConfig, at: Workplace, *_: Any) -> list[Model]:
        count = images if database == Path("other/db") else 10
        return [Model(database, {name: Pose.identity() for name in SCENE.images[:count]})]

    def judge(database: Path, model: Model, pairs: list[Pair]) -> Judgement:
        share = 0.99 if database == Path("db") else supports[model.folder == Path("db")]
        return Judgement(share, share)

    for module in (best_model, mapping_runs):
        monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    monkeypatch.setattr(mapping_runs.mapping, "map_scene", mapped)
    monkeypatch.setattr(best_model.duplicates, "distinct", lambda *_: [Distinct(Path("other/db"), [("a", "c")])])
    found = map_best(
        Path("db"), SCENE, [MappingConfig("global")], RunPolicy(), Workplace(Path("out"), Path("colmap.log"), 1)
    )
    assert found.models[0].folder == Path("other/db" if adopted else "db")
    assert found.database == Path("db")
    assert found.left_out == ({("a", "c")} if adopted else frozenset())
    assert len(found.notes) == adopted


@pytest.mark.parametrize("fitting", [1, 2, 3])
def test_more_of_the_pairs_are_used_if_too_few_are_left(monkeypatch: pytest.MonkeyPatch, fitting: int) -> None:
    """The first copy of the database, the second, or none has a complete model; the second gets all runs."""
    made: list[tuple[str, str]] = []

    def mapped(database: Path, root: Path, config: MappingConfig, at: Workplace, *_: Any) -> list[Model]:
        made.append((database.name, config.mapper))
        complete = database.name in ("db", f"db{fitting}") and (fitting == 1 or config.mapper == "incremental")
        return [Model(database, {name: Pose.identity() for name in SCENE.images[: 10 if complete else 4]})]

    def judge(database: Path, model: Model, pairs: list[Pair]) -> Judgement:
        return Judgement(share := 0.5 if model.folder == Path("db") else 0.99, share)

    for module in (best_model, mapping_runs):
        monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    monkeypatch.setattr(mapping_runs.mapping, "map_scene", mapped)
    copies = [Distinct(Path("other/db1"), [("a", "c"), ("b", "c")]), Distinct(Path("other/db2"), [("b", "c")])]
    monkeypatch.setattr(best_model.duplicates, "distinct", lambda *_: copies)
    at = Workplace(Path("out"), Path("colmap.log"), 1)
    found = map_best(Path("db"), SCENE, [MappingConfig("global"), MappingConfig()], RunPolicy(), at)
    assert found.models[0].folder == Path(("other/db1", "other/db2", "db")[fitting - 1])
    assert found.left_out == frozenset([*copies, Distinct(Path("db"), [])][fitting - 1].left_out)
    of_copies = [("db1", "global"), *([("db2", "global"), ("db2", "incremental")] if fitting > 1 else [])]
    assert [run for run in made if run[0] != "db"] == of_copies
