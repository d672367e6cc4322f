"""The reliability benchmark's own parts: it sees every kind of failure, and repeats a case."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from imc_kit.types import Pose

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
cases = pytest.importorskip("hostile.cases")
runs = pytest.importorskip("hostile.runs")
workers = pytest.importorskip("hostile.workers")


def _case(number: int, random: Random, at: cases.Place) -> str:
    if number == 1:
        raise cases.Failed("not good")
    if number == 2:
        os._exit(3)
    if number == 3:
        time.sleep(60)
    if number == 4:
        raise KeyError("what nobody thought of")
    if number == 5:
        return str(cases.sentence("two\nlines", at))
    (at.folder / "left").touch(exist_ok=False)
    return f"{random.random()}"


def test_every_failure_is_seen_and_a_case_is_repeated(tmp_path: Path) -> None:
    place = cases.Place(tmp_path, tmp_path, tmp_path / "cases")
    kinds = {"fake": cases.Kind("fake", _case, "", count=8, seconds=1.5)}
    jobs = [("fake", number) for number in range(8)]
    first = {result.case: result for result in workers.run_all(jobs, kinds, place, 7, 1)}
    second = {result.case: result for result in workers.run_all(jobs[6:], kinds, place, 7, 2)}
    assert [first[number].survived for number in range(8)] == [True, *[False] * 5, True, True]
    for number, said in enumerate(("not good", "died", "still running", "KeyError", "several lines"), 1):
        assert said in first[number].said
    assert [first[number].said for number in (6, 7)] == [second[number].said for number in (6, 7)]
    assert first[6].said != first[7].said


def test_poses_are_compared_whatever_their_frame_and_scale() -> None:
    random = np.random.default_rng(0)
    frame = np.linalg.qr(random.normal(size=(3, 3)))[0]
    frame *= np.sign(np.linalg.det(frame))
    rotations = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(4)]
    centers = random.normal(size=(4, 3))
    poses = {
        str(i): Pose.from_center(rotation * np.sign(np.linalg.det(rotation)), center)
        for i, (rotation, center) in enumerate(zip(rotations, centers, strict=True))
    }
    moved = {
        name: Pose.from_center(pose.rotation @ frame.T, 3 * frame @ pose.center + 1) for name, pose in poses.items()
    }
    assert np.allclose(runs.difference(poses, moved), 0, atol=1e-5)
    wrong = moved | {"2": Pose.from_center(moved["2"].rotation, moved["2"].center + 0.5)}
    assert runs.difference(poses, wrong)[1] > runs.MOST_DISTANCE
