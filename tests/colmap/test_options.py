"""pycolmap's options by dotted name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pycolmap
import pytest

from imc_kit.colmap.options import with_options
from imc_kit.errors import KitError


def test_nothing_to_change() -> None:
    untouched = pycolmap.IncrementalPipelineOptions().todict()
    assert with_options(pycolmap.IncrementalPipelineOptions(), {}, "mapping").todict() == untouched


def test_only_what_is_named_changes() -> None:
    target = pycolmap.IncrementalPipelineOptions()
    before = target.todict()
    assert with_options(target, {"mapper.init_min_tri_angle": 8}, "mapping") is target
    assert target.mapper.init_min_tri_angle == 8
    before["mapper"]["init_min_tri_angle"] = 8.0
    assert target.todict() == before


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("min_num_matches", 20, 20),
        ("min_num_matches", "20", 20),
        ("min_num_matches", 20.0, 20),
        ("mapper.init_min_tri_angle", "8.5", 8.5),
        ("mapper.init_min_tri_angle", 8, 8.0),
        ("multiple_models", False, False),
        ("multiple_models", "False", False),
        ("multiple_models", "0", False),
        ("multiple_models", 0, False),
        ("ba_refine_principal_point", "true", True),
        ("ba_refine_principal_point", "1", True),
        ("ba_gpu_index", "0,1", "0,1"),
        ("snapshot_path", "some/where", Path("some/where")),
        ("mapper.image_selection_method", "MAX_VISIBLE_POINTS_NUM", "MAX_VISIBLE_POINTS_NUM"),
        ("mapper.ba_local_num_images", "7", 7),
    ],
)
def test_values_take_the_type_of_what_they_replace(name: str, value: Any, wanted: Any) -> None:
    found: Any = with_options(pycolmap.IncrementalPipelineOptions(), {name: value}, "mapping")
    for part in name.split("."):
        found = getattr(found, part)
    assert type(found) is type(wanted) or hasattr(found, "name")
    assert getattr(found, "name", found) == getattr(wanted, "name", wanted)


def test_options_that_are_nested_twice() -> None:
    target = pycolmap.GlobalPipelineOptions()
    with_options(target, {"mapper.bundle_adjustment.ceres.loss_function_type": "CAUCHY"}, "mapping")
    assert target.mapper.bundle_adjustment.ceres.loss_function_type.name == "CAUCHY"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ransac.max_num_trails", "ransac.max_num_trials"),
        ("min_inliers", "min_num_inliers"),
        ("ransac", "ransac."),
        ("ransac.max_error.x", "ransac.max_error"),
        ("", None),
    ],
)
def test_an_unknown_name_gives_the_nearest(name: str, nearest: str | None) -> None:
    with pytest.raises(KitError, match=f"unknown verification option '{name}'") as raised:
        with_options(pycolmap.TwoViewGeometryOptions(), {name: 1}, "verification")
    if nearest:
        assert nearest in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("min_num_matches", "many", "of type int"),
        ("min_num_matches", 3.5, "of type int"),
        ("min_num_matches", "3.5", "of type int"),
        ("min_num_matches", float("inf"), "of type int"),
        ("min_num_matches", None, "of type int"),
        ("mapper.init_min_tri_angle", "wide", "of type float"),
        ("mapper.init_min_tri_angle", [1], "of type float"),
        ("multiple_models", "maybe", "of type bool"),
        ("multiple_models", 2, "of type bool"),
        ("mapper.image_selection_method", "BEST", "one of .*MAX_VISIBLE_POINTS_NUM"),
        ("image_names", "a.jpg", "of type list"),
        ("constant_cameras", "1", "of type set"),
    ],
)
def test_a_value_of_a_wrong_type_is_a_clear_error(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(KitError, match=f"mapping option '{name}' must be {wanted}.*, not "):
        with_options(pycolmap.IncrementalPipelineOptions(), {name: value}, "mapping")
