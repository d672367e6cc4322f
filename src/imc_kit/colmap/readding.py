"""Re-add pruned pairs, in COLMAP's child process (see `steps.readd`)."""

from collections.abc import Sequence
from pathlib import Path

import pycolmap

from imc_kit.colmap.bundle_adjustment import adjust, correspondence_graph
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.mapping import intrinsics_are_per_image
from imc_kit.colmap.options import NOTHING_KNOWN, Known
from imc_kit.colmap.steps import ReaddingConfig
from imc_kit.colmap.support import agreement, epipolar_errors, read_evidence


def readd_job(
    database: str, model: str, left_out: Sequence[Sequence[str]], output: str, config: ReaddingConfig, threads: int,
    seed: int, known: Known = NOTHING_KNOWN,
) -> None:  # fmt: skip
    """Bundle-adjust a model with agreeing left-out pairs; write it to `output` if its own matches still agree."""
    reconstruction = pycolmap.Reconstruction(model)
    posed = set(reconstruction.reg_image_ids())
    ids = {reconstruction.images[number].name: number for number in posed}
    with pycolmap.Database.open(database) as opened:
        inside = [pair for pair in sorted(id_pair_counts(opened, verified=True)) if posed.issuperset(pair)]
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
    graph = correspondence_graph(reconstruction, matches)
    adjust(reconstruction, graph, intrinsics_are_per_image(Path(database), known), threads, seed, known)
    after = agreement(reconstruction, evidence, own)
    still = set(reconstruction.reg_image_ids())
    print(f"agreeing matches of its own pairs: {before} before, {after} after; posed: {len(still)} of {len(posed)}")
    if still == posed and after[0] >= before[0] - config.max_loss * before[1]:
        reconstruction.write(output)
