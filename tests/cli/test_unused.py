"""Options without effect get a note."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imc_kit.cli.solve import Solve
from imc_kit.cli.unused import unused
from imc_kit.config import Config, preset

FEATURES = ["--imported.features", "f.h5"]
MATCHES = [*FEATURES, "--imported.matches", "m.h5"]


def notes(*arguments: str, base: str = "sift") -> list[str]:
    command = Solve.parse("solve", ["photos", "--out", "out", "--preset", base, *arguments])
    return unused(command.config, preset(base))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pairs.window", "5"], "--pairs.window has no effect without --pairs.method sequential"),
        (["--pairs.min-similarity", "0.1"], "--pairs.min-similarity has no effect without --pairs.method similar"),
        (["--masks.min-share", "0.5"], "--masks.min-share has no effect without --masks.vegetation"),
        (["--combine.radius", "3"], "--combine.radius has no effect without --add"),
        (["--merging.no-on", "--merging.min-links", "9"], "--merging.min-links has no effect without --merging.on"),
        (
            ["--positions.pairs", "on", "--pairs.method", "sequential"],
            "--positions.pairs has no effect without --pairs.method similar or matches",
        ),
        (["--positions.no-on", "--positions.file", "a.csv"], "--positions.file has no effect without --positions.on"),
        (["--descriptors", "dinov2", "--pairs.method", "sequential"], "--pairs.descriptors has no effect without"),
        ([*FEATURES, "--detector.max-keypoints", "9"], "--detector.max-keypoints has no effect with imported features"),
        ([*FEATURES, "--masks.vegetation"], "--masks.vegetation has no effect with imported features"),
        ([*MATCHES, "--matcher.ratio", "0.9"], "--matcher.ratio has no effect with imported features and matches"),
        ([*MATCHES, "--detector", "orb"], "--detector has no effect with imported features and matches"),
        ([*MATCHES, "--pairs.k", "9"], "--pairs.k has no effect with imported pairs"),
        (["--imported.pairs", "p.txt", "--pairs.k", "9"], "--pairs.k has no effect with imported pairs"),
    ],
)
def test_an_option_without_effect_is_named(arguments: list[str], said: str) -> None:
    assert [note for note in notes(*arguments) if note.startswith(said)]


def test_options_with_an_effect_are_not_named() -> None:
    assert notes("--pairs.method", "sequential", "--pairs.window", "5") == []
    assert notes("--masks.vegetation", "--masks.min-share", "0.5", "--pairs.k", "9") == []
    assert notes("--descriptors", "vlad", "--detector", "orb", "--detector.max-keypoints", "99", base="small") == []
    assert notes(*FEATURES, "--detector", "orb", "--matcher.ratio", "0.9", "--pairs.k", "9") == []
    assert notes("--imported.pairs", "p.txt") == []
    assert notes(*FEATURES, "--add", "orb+nearest", "--masks.vegetation") == []
    for base in ("sift", "baseline", "ensemble", "small"):
        assert unused(preset(base), preset(base)) == []
    changed = replace(Config(), masks=replace(Config().masks, folder=Path("masks")))
    assert unused(changed, Config()) == []
