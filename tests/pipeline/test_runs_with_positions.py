"""Positions of photos in a whole scene: what selects pairs, what is aligned, and what makes a result anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imc_kit.colmap.geodesy import geographic
from imc_kit.colmap.steps import PositionsConfig
from imc_kit.config import CHEAP, Config
from imc_kit.data import scenes
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.metric import score_files
from imc_kit.pipeline.positions import Positions, locate
from imc_kit.pipeline.records import inspect
from imc_kit.pipeline.run import solve
from imc_kit.pipeline.scene import match_scene
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.synthetic.plaza import orbit
from imc_kit.types import Scene
from point_scenes import ALL, FIRST, MAPPING_ALONE, ONE_RUN, solve_scene, write_photographs
from rendered.drone import ORIGIN, flight, gps_exif, write_flight

ONE_ALONE = replace(MAPPING_ALONE, mapping=ONE_RUN.mapping)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    (scene,) = scenes.load(write_photographs(tmp_path_factory.mktemp("photos") / "mixed")).scenes
    return scene


def write_positions(path: Path, noise: float = 0.0, first: str = "") -> Path:
    """Those of the first place of `point_scenes`: a circle of 8 m."""
    random = np.random.default_rng(0)
    centers = [pose.center + random.normal(0, noise, 3) for pose in orbit(ALL)[:FIRST]]
    rows = [f"{number:02}.png,{','.join(map(repr, map(float, place)))}\n" for number, place in enumerate(centers)]
    path.write_text("image,x,y,z\n" + first + "".join(rows), "utf-8")
    return path


def test_the_model_is_in_metres_and_the_positions_identify_the_result(
    tmp_path: Path, scene: Scene, executor: Executor
) -> None:
    file, store = write_positions(tmp_path / "positions.csv"), Store(tmp_path / "store")
    config = replace(ONE_ALONE, positions=PositionsConfig(file=file, stddev=0.1))
    folder = tmp_path / "scene"
    result = solve_scene(scene, folder, store, config, executor)
    assert result.alignment is not None
    assert result.alignment.origin is None
    assert result.alignment.positions == result.alignment.fitting == FIRST
    for name, pose in result.models[0].poses.items():
        np.testing.assert_allclose(pose.center, orbit(ALL)[int(name[:2])].center, atol=0.05)
    for name in result.models[0].poses:
        np.testing.assert_allclose(result.placements[name].pose.center, result.models[0].poses[name].center, atol=1e-6)
    written = json.loads((folder / "result.json").read_text())
    assert written["alignment"]["scale"] == result.alignment.scale
    assert "models/0/alignment.json" in written["files"]

    again = match_scene(scene, folder, store, config, executor)  # read back
    assert again.alignment == result.alignment  # type: ignore[union-attr]
    copy = write_positions(tmp_path / "copy.csv")
    moved = replace(config, positions=replace(config.positions, file=copy))
    assert isinstance(match_scene(scene, folder, store, moved, executor), type(result))  # the content counts
    write_positions(copy, noise=0.01)
    assert not isinstance(match_scene(scene, folder, store, moved, executor), type(result))


def test_without_positions_nothing_happens(tmp_path: Path, scene: Scene, executor: Executor) -> None:
    store = Store(tmp_path / "store")
    plain = solve_scene(scene, tmp_path / "plain", store, ONE_ALONE, executor)
    on = replace(ONE_ALONE, positions=PositionsConfig(file=write_positions(tmp_path / "positions.csv"), stddev=0.1))
    off = replace(on, positions=replace(on.positions, on=False))
    assert solve_scene(scene, tmp_path / "off", store, off, executor).alignment is None
    # Alignment changes the frame and the scale, nothing else, so no score.
    aligned = solve_scene(scene, tmp_path / "on", store, on, executor)
    assert aligned.alignment is not None
    poses = (dict(sorted(run.models[0].poses.items())).values() for run in (plain, aligned))
    centers = (np.array([pose.center for pose in those]) for those in poses)
    lengths = [np.linalg.norm(some[:, None] - some, axis=2) for some in centers]
    np.testing.assert_allclose(aligned.alignment.scale * lengths[0], lengths[1], rtol=1e-6, atol=1e-9)
    assert plain.alignment is None
    assert not [note for note in plain.notes if "position" in note]
    asked = replace(ONE_ALONE, positions=PositionsConfig(pairs="on"))
    notes = solve_scene(scene, tmp_path / "asked", store, asked, executor).notes
    assert [note for note in notes if note.startswith("no image has a position, so --positions.pairs")]


def test_positions_that_determine_nothing_get_a_note(tmp_path: Path, scene: Scene, executor: Executor) -> None:
    file = write_positions(tmp_path / "positions.csv")
    config = replace(ONE_ALONE, positions=PositionsConfig(file=file, stddev=50.0))
    result = solve_scene(scene, tmp_path / "scene", Store(tmp_path / "store"), config, executor)
    assert result.alignment is None
    assert [note for note in result.notes if note.startswith("model 1 is not aligned to positions: 10 positions over")]


def test_a_name_that_fits_no_image_ends_the_run_before_any_work(tmp_path: Path, scene: Scene) -> None:
    file = write_positions(tmp_path / "positions.csv", first="99.png,0,0,0\n")
    config = replace(ONE_ALONE, positions=PositionsConfig(file=file))
    with pytest.raises(KitError, match=r"1 of 11 names in .* fit no image \(99.png\)"):
        solve(scene.root, tmp_path / "out", config)
    with pytest.raises(KitError, match="there is no file"):
        solve(scene.root, tmp_path / "out", replace(config, positions=PositionsConfig(file=tmp_path / "no.csv")))


def made(count: int, spacing: float, missing: int = 0) -> tuple[list[str], Positions]:
    names = [f"{i}.jpg" for i in range(count)]
    places = {n: np.array([spacing * (i // 10), spacing * (i % 10), np.nan]) for i, n in enumerate(names)}
    return names, Positions(dict(list(places.items())[missing:]))


SIMILAR = PairsConfig("similar", exhaustive_up_to=30)


@pytest.mark.parametrize(
    ("count", "spacing", "missing", "pairs", "method", "expected"),
    [
        (100, 15.0, 0, "auto", "similar", True),
        (100, 15.0, 10, "auto", "matches", True),
        (100, 15.0, 11, "auto", "matches", False),  # too many are unknown
        (100, 3.0, 0, "auto", "matches", False),  # GPS is not that precise
        (30, 15.0, 0, "auto", "matches", False),  # all pairs are matched
        (100, 15.0, 0, "off", "similar", False),
        (100, 15.0, 0, "auto", "sequential", False),
        (100, 15.0, 0, "on", "exhaustive", False),
        (30, 3.0, 20, "on", "matches", True),
        (10, 3.0, 10, "on", "matches", False),  # none is known
    ],
)
def test_when_positions_select_pairs(
    count: int, spacing: float, missing: int, pairs: str, method: str, expected: bool
) -> None:
    names, positions = made(count, spacing, missing)
    config = PositionsConfig(pairs=pairs)  # type: ignore[arg-type]
    wanted = replace(SIMILAR, method=method)  # type: ignore[arg-type]
    assert positions.select_pairs(names, config, wanted) is expected


def test_a_table_of_positions() -> None:
    names, positions = made(20, 15.0, 1)
    table = positions.table(names)
    assert np.isnan(table[0]).all()
    np.testing.assert_array_equal(table[11], [15.0, 15.0, 0.0])
    assert positions.solid() == {}  # no altitudes


def test_gps_in_exif_is_in_metres_around_the_middle(tmp_path: Path, executor: Executor) -> None:
    true = np.array([pose.center for pose in flight(24)])
    for number, place in enumerate(geographic(true, ORIGIN)[:-1]):
        Image.new("RGB", (32, 24)).save(tmp_path / f"{number:02}.jpg", exif=gps_exif(*place.tolist()))
    Image.new("RGB", (32, 24)).save(tmp_path / "without.jpg")
    (scene,) = scenes.load(tmp_path).scenes
    records, _ = inspect(scene, Config().masks, executor)
    found = locate(scene, records, PositionsConfig(), [])
    assert list(found.metres) == list(scene.images[:-1])
    apart = np.array(list(found.metres.values())) - true[:-1]
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=0.01)
    assert found.origin is not None
    np.testing.assert_allclose(geographic(np.zeros((1, 3)), found.origin)[0], found.origin, atol=1e-9)
    assert found.origin == pytest.approx((ORIGIN[0], ORIGIN[1], 500), abs=2)
    assert locate(scene, records, PositionsConfig(on=False), []).metres == {}


@pytest.mark.slow
def test_a_flight_is_solved_by_nearby_pairs_and_aligned_to_metres(tmp_path: Path) -> None:
    """Six of the photos have lost their GPS: they are found by retrieval."""
    drone = tmp_path / "drone"
    write_flight(drone, 24, size=(240, 180))
    (scene,) = scenes.load(drone).scenes
    for name in scene.images[::4]:
        data = scene.path(name).read_bytes()
        length = int.from_bytes(data[4:6], "big")
        scene.path(name).write_bytes(data[:2] + data[4 + length :])
    positions = PositionsConfig(pairs="on", k=6)
    config = replace(CHEAP, positions=positions, pairs=PairsConfig("similar", exhaustive_up_to=0, k=6), threads=1)
    run = solve(drone, tmp_path / "out", config, score=True)
    (result,) = run.scenes.values()
    assert result.counts["registered"] == 24
    assert result.counts["pairs"] < 200
    assert result.alignment is not None
    assert result.alignment.positions == 18
    centers = np.array([result.placements[name].pose.center for name in scene.images])
    true = np.array([pose.center for pose in flight(24)])
    shift = np.median(centers - true, axis=0)  # the origins differ by the median position
    assert np.linalg.norm(centers - true - shift, axis=1).max() < 5.0  # 3 m of noise, 18 positions
    assert "in metres, east, north, up from 47.37" in str(run)
    assert json.loads((tmp_path / "out/run.json").read_text())["scenes"]["flight"]["alignment"]["positions"] == 18
    assert score_files(drone / "truth.csv", run.submission).result.mean > 0.9
