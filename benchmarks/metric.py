"""The time for the score of one scene on one core, and whether it is exact, by number and quality of cameras.

    python benchmarks/metric.py [--cameras 100 300 1000]

The scenes are random: true centres with standard deviations of 8, 8 and 2 metres, and estimates in another frame. The
thresholds are those of 2024.

    perfect   all cameras are right
    far off   a fifth of the cameras is a hundred metres off, the others are right
    good      errors of 0.02, 0.05 or 0.2 m per coordinate; a fifth of the cameras is anywhere in the scene
    poor      all cameras are anywhere in the scene
"""

from __future__ import annotations

import argparse
import time
from math import comb

import numpy as np

from imc_kit.metric import FREE, THRESHOLDS
from imc_kit.metric.similarity import register
from imc_kit.types import Float64

SIZE = (8, 8, 2)
KINDS = ("perfect", "far off", "good", "poor")


def drawn(kind: str, cameras: int) -> tuple[Float64, Float64]:
    """True and estimated centres [cameras, 3]."""
    random = np.random.default_rng(0)
    truth = SIZE * random.normal(size=(cameras, 3))
    estimated = truth.copy()
    fifth = random.permutation(cameras)[: cameras // 5]
    if kind == "far off":
        estimated[fifth] += 100 * random.normal(size=(len(fifth), 3))
    if kind == "good":
        estimated += random.choice([0.02, 0.05, 0.2], size=(cameras, 1)) * random.normal(size=truth.shape)
        estimated[fifth] = SIZE * random.normal(size=(len(fifth), 3))
    if kind == "poor":
        estimated = SIZE * random.normal(size=truth.shape)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    return truth, 0.37 * estimated @ (rotation * np.sign(np.linalg.det(rotation))).T + random.normal(size=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, nargs="+", default=[100, 300, 1000], help="default: 100 300 1000")
    print("| cameras | poses | CPU s | triplets tried | of all | mAA | |\n|--:|---|--:|--:|--:|--:|---|")
    for cameras in parser.parse_args().cameras:
        for kind in KINDS:
            truth, estimated = drawn(kind, cameras)
            start = time.process_time()
            found = register(estimated.T, truth.T, np.array(THRESHOLDS))
            seconds = time.process_time() - start
            low, high = (
                float(np.maximum(0, counts - FREE).mean() / (cameras - FREE)) for counts in (found.counts, found.most)
            )
            exact = bool((found.counts == found.most).all())
            value, said = (f"{low:.4f}", "exact") if exact else (f"{low:.4f} to {high:.4f}", "bounds")
            tried, share = found.tried, found.tried / comb(cameras, 3)
            print(f"| {cameras} | {kind} | {seconds:.1f} | {tried:,} | {share:.3%} | {value} | {said} |", flush=True)


if __name__ == "__main__":
    main()
