"""Pairs that an attempt at mapping left out, and its model says are right, come back into it.

Where structures repeat, the strong pairs alone may give the right model; but fewer pairs hold its cameras less well.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_kit.colmap import child, mapping
from imc_kit.errors import KitError
from imc_kit.types import Model, Pair


@dataclass(frozen=True)
class ReaddingConfig:
    """Which of the pairs that an attempt left out come back."""

    on: bool = True
    """Whether any do."""
    max_error: float = 4.0
    """Pixels to which a match agrees with the model (`support`), before adjustment."""
    min_agreement: float = 0.7
    """The share of the verified matches of a pair that must agree; the others of the pair stay out."""
    max_loss: float = 0.01
    """The share of the verified matches of its own pairs that may cease to agree with the model; otherwise it stays as
    it was."""
    time_limit: float = 600.0
    """Seconds that one scene may take."""

    def check(self) -> None:
        """Raise KitError for limits that make no sense."""
        for name in ("min_agreement", "max_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise KitError(f"{name} of readding must be in 0 … 1, not {getattr(self, name)}")
        if not (self.max_error > 0 and self.time_limit > 0):
            raise KitError("max_error and time_limit of readding must be more than 0")


def readd(
    database: Path,
    model: Model,
    left_out: Collection[Pair],
    folder: Path,
    config: ReaddingConfig,
    log: Path,
    threads: int = -1,
    seed: int = 0,
) -> Model:
    """The model adjusted with those of the pairs that agree with it, in `folder`; or `model` where there are none, or
    where it would be bent.

    database: with the model's images, keypoints and verified matches. left_out: pairs of image names. Raises
    ColmapError when the child process crashes or runs out of time.
    """
    child.fill(
        folder, "readd", "readding of pairs", config, log,
        database=database, model=model.folder, left_out=sorted(left_out), threads=threads, seed=seed,
    )  # fmt: skip
    return mapping.read_model(folder) if (folder / "images.bin").is_file() else model


def adjust(
    database: str, model: str, left_out: list[Any], output: str, config: ReaddingConfig, threads: int, seed: int
) -> None:
    """What `readd` does in the child process."""
    import pycolmap

    from imc_kit.colmap import adjustment
    from imc_kit.colmap.support import agreement, epipolar_errors, read_evidence

    reconstruction = pycolmap.Reconstruction(model)
    posed = set(reconstruction.reg_image_ids())
    ids = {reconstruction.images[number].name: number for number in posed}
    with pycolmap.Database.open(database) as opened:
        inside = [pair for pair in adjustment.read_matched_pairs(opened) if posed.issuperset(pair)]
        evidence = read_evidence(opened, inside)
    out = {frozenset(ids[name] for name in pair) for pair in left_out if all(name in ids for name in pair)}
    own = [pair for pair in inside if frozenset(pair) not in out]
    matches = {pair: evidence.matches[pair] for pair in own}
    for pair in inside:
        if pair not in matches:
            agree = epipolar_errors(reconstruction, evidence, pair) <= config.max_error
            if agree.mean() >= config.min_agreement:
                matches[pair] = evidence.matches[pair][agree]
    print(f"{len(matches) - len(own)} of {len(out)} pairs that were left out agree with the model")
    if len(matches) == len(own):
        return
    before = agreement(reconstruction, evidence, own)
    graph = adjustment.correspondence_graph(reconstruction, matches)
    adjustment.adjust(reconstruction, graph, mapping.cameras_are_own(Path(database)), threads, seed)
    after = agreement(reconstruction, evidence, own)
    still = set(reconstruction.reg_image_ids())
    print(f"matches of its own pairs that agree: {before} before, {after} after; posed: {len(still)} of {len(posed)}")
    if still == posed and after[0] >= before[0] - config.max_loss * before[1]:
        reconstruction.write(output)
