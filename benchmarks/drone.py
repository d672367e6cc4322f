"""A drone flight with noisy GPS: pairs by position, and the error of the camera centres in metres.

    python benchmarks/drone.py

It renders a flight (`rendered.drone`), solves it by the command `imc-kit solve`, and compares the centres in
the model's files, in metres east, north and up of the origin that the kit states, with the true ones. Options that it
does not know go to `imc-kit solve`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.geodesy import geographic
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.steps import PositionsConfig, georeference
from imc_kit.types import Float64, Model, Pose
from rendered.drone import ORIGIN, write_flight

DRAWS = 20
"""Further draws of GPS noise: how well a model is aligned depends on it more than on the model."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A drone flight with noisy GPS; other options go to imc-kit solve.")
    parser.add_argument("--images", type=int, default=200, help="default: 200")
    parser.add_argument("--noise", type=float, default=3.0, help="of the GPS in each direction, in metres; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="of the flight and its noise; default: 0")
    parser.add_argument("--folder", type=Path, help="for the photos and the results; default: a temporary one")
    arguments, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        truth = write_flight(folder / "photos", arguments.images, noise=arguments.noise, seed=arguments.seed)
        photos, out = folder / "photos/test/flight/images", folder / "out"
        kit = [sys.executable, "-c", "from imc_kit.cli.main import main; main()"]
        subprocess.run([*kit, "solve", str(photos), "--out", str(out), *further], check=True)
        (scene,) = json.loads((out / "run.json").read_text("utf-8"))["scenes"].values()
        (model,) = out.glob("scenes/*/models/0")
        for line in told(scene, read_model(model), {Path(name).name: pose for name, pose in truth.items()}):
            print(line)
        print(repeated(read_model(model), truth, arguments.noise, Path(scratch)))


def told(scene: dict[str, Any], model: Model, truth: dict[str, Pose]) -> Iterator[str]:
    """What came out of a run on a folder of photos, compared with the true poses by image name."""
    counts, count = scene["counts"], len(truth)
    yield f"pairs: {counts['pairs']} of {count * (count - 1) // 2}"
    yield f"registered: {counts['registered']} of {count}"
    yield f"seconds: {sum(scene['seconds'].values()):.0f}"
    yield from scene["notes"]
    if model.alignment is not None and model.alignment.origin is not None:
        yield f"summary: {model.alignment}"
        found = geographic(np.array([pose.center for pose in model.poses.values()]), model.alignment.origin)
        true = geographic(np.array([truth[name].center for name in model.poses]), ORIGIN)
        errors = metres_between(found, true)
        distances = np.linalg.norm(errors, axis=1)
        yield f"error of centres: median {np.median(distances):.2f} m, maximum {distances.max():.2f} m"
        yield f"centres within 1 m: {np.count_nonzero(distances <= 1)}"
        yield "mean error east, north, up: " + ", ".join(f"{error:.2f} m" for error in errors.mean(axis=0))


def repeated(model: Model, truth: dict[str, Pose], noise: float, scratch: Path) -> str:
    """The errors of the centres after aligning the model to positions with other noise."""
    true = {Path(name).name: pose.center for name, pose in truth.items()}
    medians, maxima = [], []
    for draw in range(DRAWS):
        rng = np.random.default_rng([draw, 2])
        noisy = {name: (center + rng.normal(0, noise, 3)).tolist() for name, center in true.items()}
        at = Workplace(scratch / "aligned", scratch / "log", threads=1)
        (found,), _ = georeference([model], noisy, None, PositionsConfig(), at)
        distances = [np.linalg.norm(pose.center - true[name]) for name, pose in found.poses.items()]
        medians.append(np.median(distances))
        maxima.append(max(distances))
    spread = "; ".join(
        f"{what} {np.median(values):.2f} m ({min(values):.2f} … {max(values):.2f})"
        for what, values in (("median", medians), ("maximum", maxima))
    )
    return f"error of centres with {DRAWS} other draws of noise, median and range: {spread}"


def metres_between(found: Float64, true: Float64) -> Float64:
    """The differences east, north and up [N, 3] of two lists of latitudes, longitudes and altitudes."""
    import pycolmap

    gps = pycolmap.GPSTransform()
    return np.asarray(gps.ellipsoid_to_enu(found, *ORIGIN) - gps.ellipsoid_to_enu(true, *ORIGIN))


if __name__ == "__main__":
    main()
