"""Options that were given but have no effect, because another option was given or was not."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from imc_kit.config import Config

_METHODS = {
    "exhaustive_up_to": "similar, matches or sequential", "descriptors": "similar", "k": "similar or matches",
    "min_similarity": "similar", "min_matches": "matches", "min_per_image": "similar or matches",
    "window": "sequential",
}  # fmt: skip
"""The methods of pair selection that use an option."""


def unused(config: Config, default: Config) -> list[str]:
    """A note about each option that differs from the default and has no effect."""
    reasons = {option: _reason(*option.partition(".")[::2], config) for option in _changed(default, config)}
    return [f"--{name.replace('_', '-')} has no effect {reason}" for name, reason in reasons.items() if reason]


def _reason(stage: str, option: str, config: Config) -> str:
    """Why an option has no effect: what it needs and lacks, or what replaces it; "" if it has one."""
    masks, pairs, imported = config.masks, config.pairs, config.imported
    if imported.has_features and (
        (stage == "detector" and (option or imported.has_matches))
        or (stage == "matcher" and imported.has_matches)
        or (stage == "masks" and not config.also)
    ):
        return "with imported features" + (" and matches" if imported.has_matches else "")
    if stage == "pairs" and (imported.pairs or imported.has_matches):
        return "with imported pairs"
    methods = _METHODS.get(option, pairs.method) if stage == "pairs" else pairs.method
    methods = "similar or matches" if (stage, option) in (("positions", "pairs"), ("positions", "k")) else methods
    lacks = {
        f"--pairs.method {methods}": pairs.method not in methods.replace(",", "").split(),
        "--masks.vegetation": (stage, option) == ("masks", "min_share") and not masks.vegetation,
        "--add": stage == "combine" and not config.also,
        "--cameras.known": (stage, option) == ("cameras", "fixed") and not config.cameras.known,
        "a matcher that takes photos": stage == "merge" and not config.matches_photos,
        f"--{stage}.on": option != "on" and not getattr(getattr(config, stage), "on", True),
    }
    return next((f"without {need}" for need, lacking in lacks.items() if lacking), "")


def _changed(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """The options that differ, by their dotted names."""
    if is_dataclass(new) and type(old) is type(new):
        for one in fields(new):
            yield from _changed(getattr(old, one.name), getattr(new, one.name), f"{name}.{one.name}".lstrip("."))
    elif old != new:
        yield name
