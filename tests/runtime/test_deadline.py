"""Deadlines and shares of time, with a clock that only the test moves."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context

import pytest

from imc_kit.colmap import child
from imc_kit.config import CHEAP, Config, FeaturePipeline, cheap, preset
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.loftr import LoftrConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.runtime import deadline


class Hand:
    now = 1000.0


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(deadline.time, "monotonic", lambda: hand.now)
    return hand


def test_a_deadline_travels(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a process of this machine as it is, whatever the machine's time; to another machine as a time of day."""
    time_of_day = 50_000.0
    monkeypatch.setattr(deadline.time, "time", lambda: time_of_day)
    sent = [pickle.dumps(until) for until in (deadline.after(60), deadline.portion(1100, 0.5), deadline.after(None))]
    time_of_day += 3600  # someone sets the clock
    assert [pickle.loads(until) for until in sent] == [1060, 1050, inf]
    time_of_day -= 3590  # it takes ten seconds
    monkeypatch.setattr(deadline, "_machine", lambda: "another")
    hand.now = 7.0
    assert [deadline.left(pickle.loads(until)) for until in sent] == [50, 40, inf]
    assert pickle.loads(pickle.dumps(pickle.loads(sent[0]))) == 57  # and from there to its processes


def test_processes_of_one_machine_agree() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(deadline._machine).result() == deadline._machine()


def test_moments(hand: Hand) -> None:
    until = deadline.after(60)
    assert until == 1060
    assert deadline.left(until) == 60
    hand.now += 45
    assert deadline.left(until) == 15
    hand.now += 45
    assert deadline.left(until) == 0
    assert deadline.after(None) == inf
    assert deadline.left(inf) == inf


def test_a_portion_is_of_the_time_that_is_left(hand: Hand) -> None:
    until = deadline.after(100)
    assert deadline.portion(until, 0.25) == 1025
    hand.now += 60
    assert deadline.portion(until, 0.25) == 1070
    assert deadline.portion(until, 0) == hand.now
    assert deadline.portion(until, 1) == until
    hand.now += 60
    assert deadline.portion(until, 0.25) == hand.now  # no time is left
    assert deadline.portion(inf, 0.25) == inf


def test_the_reserve_is_at_most_the_seconds_and_at_most_the_share(hand: Hand) -> None:
    until = deadline.after(100)
    assert deadline.reserved(until, 20, 0.5) == 1080
    assert deadline.reserved(until, 80, 0.5) == 1050
    hand.now += 90
    assert deadline.reserved(until, 20, 0.5) == 1095
    hand.now += 20
    assert deadline.reserved(until, 20, 0.5) == until  # nothing is left to reserve
    assert deadline.reserved(inf, 20, 0.5) == inf


@pytest.mark.parametrize("efforts", [[1], [1, 1, 1], [5, 1, 2]])
def test_shares_move_when_work_ends_early(hand: Hand, efforts: list[int]) -> None:
    """Each takes half of its share, so the shares of the others grow in proportion to their effort."""
    until = deadline.after(80)
    for number, effort in enumerate(efforts):
        expected = (1080 - hand.now) * effort / sum(efforts[number:])
        share = deadline.portion(until, effort / sum(efforts[number:]))
        assert share - hand.now == pytest.approx(expected)
        assert share <= until
        hand.now += expected / 2
    assert share == pytest.approx(until)  # the last may take all that is left


def test_notes_on_lack_of_time() -> None:
    assert not deadline.ran_out([])
    assert not deadline.ran_out(["cannot read the image x.jpg"])
    assert deadline.ran_out(["fine", f"{deadline.RAN_OUT} for the merging of models"])


def test_a_child_that_is_stopped_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycolmap.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if child._forker is not None:  # it has loaded another pycolmap, for an earlier test
        child._forker.end()
    job = {"job": "verify", "database": "none.db", "options": {}, "threads": 1, "seed": 0}
    with pytest.raises(child.ColmapError) as raised:
        child.run(job, "it", tmp_path / "log", 0.2)
    assert deadline.ran_out([str(raised.value)])


def test_the_cheap_configuration_keeps_the_options_of_the_scene() -> None:
    config = preset("aliked", {"threads": 3, "seed": 7, "time_limit": 60.0, "cameras.sharing": "image"})
    quick = cheap(config)
    assert (quick.threads, quick.seed, quick.time_limit, quick.cameras) == (3, 7, 60.0, config.cameras)
    assert (quick.detector, quick.matcher, quick.mapping) == (CHEAP.detector, CHEAP.matcher, CHEAP.mapping)
    assert quick.masks == MaskConfig()
    assert quick.weight_files() == ()


def test_looser_matchers_have_lower_thresholds() -> None:
    assert NearestConfig(ratio=0.8, min_score=0.1).looser() == NearestConfig(ratio=0.9)
    assert NearestConfig(ratio=None).looser() == NearestConfig(ratio=None)
    assert LightGlueConfig(filter_threshold=0.1).looser() == LightGlueConfig(filter_threshold=0.05)
    of_photos = FeaturePipeline(NoDetectorConfig(), LoftrConfig())
    config = Config(also=(FeaturePipeline(Config().detector, LightGlueConfig(filter_threshold=0.2)), of_photos))
    loose = config.looser()
    assert loose.matcher == config.matcher.looser() != config.matcher
    assert loose.also == (FeaturePipeline(Config().detector, LightGlueConfig(filter_threshold=0.1)), of_photos)
    assert loose.detector == config.detector
