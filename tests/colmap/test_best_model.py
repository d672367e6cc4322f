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
    monkeypatch.setattr(best_model.duplicates, "distinct", lambda *_: Distinct(Path("other/db"), [("a", "c")]))
    found = map_best(
        Path("db"), SCENE, [MappingConfig("global")], RunPolicy(), Workplace(Path("out"), Path("colmap.log"), 1)
    )
    assert found.models[0].folder == Path("other/db" if adopted else "db")
    assert found.database == Path("db")
    assert found.left_out == ({("a", "c")} if adopted else frozenset())
    assert len(found.notes) == adopted
