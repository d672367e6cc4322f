"""What the score of one scene takes on one core, and whether it is exact, by how many cameras it has and how good.

    python benchmarks/metric.py [--cameras 100 300 1000]

The scenes are drawn at random: true centres of 8, 8 and 2 metres' standard deviation, and estimates in another frame.
Thresholds are those of 2024.

    perfect   all right
    far off   a fifth of the cameras a hundred metres off, the others right
    good      errors of 0.02, 0.05 or 0.2 m a coordinate, and a fifth of the cameras anywhere in the scene
    poor      all cameras anywhere in the scene
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
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    return truth, 0.37 * estimated @ (turn * np.sign(np.linalg.det(turn))).T + random.normal(size=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, nargs="+", default=[100, 300, 1000])
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
