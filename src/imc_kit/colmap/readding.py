"""Re-add pruned pairs: those that a mapping run left out, but with which its model agrees.

Where structures repeat, a model of the strong pairs alone may be right; but fewer pairs hold its cameras less well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from imc_kit.colmap.step import StepConfig, changed_model, run_step
from imc_kit.types import Model, Pair


@dataclass(frozen=True)
class ReaddingConfig(StepConfig):
    """Which pruned pairs are re-added. All limits were chosen on the open scenes."""

    job = "readd"
    what = "re-adding of pairs"
    shares = "min_agreement", "max_loss"
    positive = ("max_error",)

    max_error: float = 4.0
    """Largest epipolar error of an agreeing match, in pixels, before bundle adjustment."""
    min_agreement: float = 0.7
    """Minimum share of a pair's verified matches that agree with the model. Only these matches are used."""
    max_loss: float = 0.01
    """Largest share of the model's own matches that may stop agreeing with it (`support`). Otherwise nothing
    changes."""


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
    """Bundle-adjust a model with the left-out pairs that agree with it.

    database: with the model's images, keypoints and verified matches. left_out: pairs of image names.

    Returns the new model in `folder`, or `model` when no pair agrees, or when its own matches would agree less.

    Raises `ColmapError` when the child process crashes or runs out of time.
    """
    run_step(
        config, folder, log,
        database=database, model=model.folder, left_out=sorted(left_out), threads=threads, seed=seed,
    )  # fmt: skip
    return changed_model(folder, model)


def readd_job(
    database: str,
    model: str,
    left_out: Sequence[Sequence[str]],
    output: str,
    config: ReaddingConfig,
    threads: int,
    seed: int,
) -> None:
    """Do the work of `readd` in the child process."""
    import pycolmap

    from imc_kit.colmap import bundle_adjustment
    from imc_kit.colmap.mapping import intrinsics_are_per_image
    from imc_kit.colmap.support import agreement, epipolar_errors, read_evidence

    reconstruction = pycolmap.Reconstruction(model)
    posed = set(reconstruction.reg_image_ids())
    ids = {reconstruction.images[number].name: number for number in posed}
    with pycolmap.Database.open(database) as opened:
        inside = [pair for pair in bundle_adjustment.read_matched_pairs(opened) if posed.issuperset(pair)]
        evidence = read_evidence(opened, inside)
    out = {frozenset(ids[name] for name in pair) for pair in left_out if all(name in ids for name in pair)}
    own = [pair for pair in inside if frozenset(pair) not in out]
    matches = {pair: evidence.matches[pair] for pair in own}
    for pair in inside:
        if pair not in matches:
            agree = epipolar_errors(reconstruction, evidence, pair) <= config.max_error
            if agree.mean() >= config.min_agreement:
                matches[pair] = evidence.matches[pair][agree]
    print(f"{len(matches) - len(own)} of {len(out)} left-out pairs agree with the model")
    if len(matches) == len(own):
        return
    before = agreement(reconstruction, evidence, own)
    graph = bundle_adjustment.correspondence_graph(reconstruction, matches)
    bundle_adjustment.adjust(reconstruction, graph, intrinsics_are_per_image(Path(database)), threads, seed)
    after = agreement(reconstruction, evidence, own)
    still = set(reconstruction.reg_image_ids())
    print(f"agreeing matches of its own pairs: {before} before, {after} after; posed: {len(still)} of {len(posed)}")
    if still == posed and after[0] >= before[0] - config.max_loss * before[1]:
        reconstruction.write(output)
