"""The order of scenes and their deadlines, by themselves."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from imc_kit.pipeline import schedule
from imc_kit.pipeline.schedule import FULL, QUICK, Schedule
from imc_kit.runtime import deadline
from imc_kit.types import Scene


@pytest.fixture(autouse=True)
def at_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline.time, "monotonic", lambda: 1000.0)


def scenes(*counts: int) -> list[Scene]:
    return [Scene(f"{count}", Path(), tuple(f"{number}" for number in range(count))) for count in counts]


def test_without_a_limit_there_is_one_round_in_the_given_order() -> None:
    plan = Schedule(scenes(9, 5), inf)
    assert plan.rounds == (FULL,)
    assert [len(scene.images) for scene in plan.scenes] == [9, 5]
    assert plan.deadline(FULL, 0, False) == inf


def test_with_a_limit_there_are_two_rounds_and_small_scenes_come_first() -> None:
    plan = Schedule(scenes(9, 5, 7), 1080.0)
    assert plan.rounds == (QUICK, FULL)
    assert [len(scene.images) for scene in plan.scenes] == [5, 7, 9]


def test_shares_are_fair_and_time_is_reserved_for_writing() -> None:
    plan = Schedule(scenes(5, 5, 5, 5), 1080.0)
    left = 80 - 4 * schedule._WRITING[0]
    assert [plan.deadline(QUICK, number, False) for number in range(4)] == pytest.approx(
        [1000 + left / scenes_left for scenes_left in (4, 3, 2, 1)]
    )
    plan = Schedule(scenes(5, 50), 11000.0)
    small, large = 5 * 4 + 5 * 5 // 2, 50 * 4 + 50 * 50 // 2
    assert plan.deadline(FULL, 0, False) == pytest.approx(1000 + (10000 - 0.6) * small / (small + large))


def test_a_share_is_large_enough_to_be_useful_and_leaves_something() -> None:
    plan = Schedule(scenes(5, 5, 5, 5), 1010.0)
    assert plan.deadline(QUICK, 0, False) == pytest.approx(1000 + 5 * schedule._ENOUGH[QUICK])
    assert plan.deadline(FULL, 0, False) == pytest.approx(1000 + schedule._MAX_SHARE * (10 - 10 * schedule._WRITING[1]))


def test_a_scene_with_an_answer_is_not_begun_again_without_hope() -> None:
    plan = Schedule(scenes(50), 1010.0)
    assert plan.deadline(FULL, 0, True) == 1000.0
    assert plan.deadline(FULL, 0, False) > 1009.0


def test_after_the_deadline_there_is_no_time() -> None:
    assert Schedule(scenes(5), 900.0).deadline(QUICK, 0, False) <= 1000.0
