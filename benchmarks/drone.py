"""A drone flight with noisy GPS: pairs by position, and the error of the camera centres in metres.

    python benchmarks/drone.py

It renders a flight (`imc_kit.synthetic.drone`), solves it by the command `imc-kit solve`, and compares the centres in
the model's files, in metres east, north and up of the origin that the kit states, with the true ones. Options that it
does not know go to `imc-kit solve`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.geodesy import geographic
from imc_kit.colmap.model_files import read_model
from imc_kit.synthetic.drone import ORIGIN, write_flight
from imc_kit.types import Float64, Pose


def main() -> None:
    parser = argparse.ArgumentParser(description="A drone flight with noisy GPS; other options go to imc-kit solve.")
    parser.add_argument("--images", type=int, default=200, help="default: 200")
    parser.add_argument("--noise", type=float, default=3.0, help="of the GPS in each direction, in metres; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="of the flight; default: 0")
    parser.add_argument("--folder", type=Path, help="for the photos and the results; default: a temporary one")
    arguments, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        truth = write_flight(folder / "photos", arguments.images, noise=arguments.noise, seed=arguments.seed)
        photos, out = folder / "photos/test/flight/images", folder / "out"
        kit = [sys.executable, "-c", "from imc_kit.cli.main import main; main()"]
        subprocess.run([*kit, "solve", str(photos), "--out", str(out), *further], check=True)
        for name, value in measured(out, {Path(name).name: pose for name, pose in truth.items()}).items():
            print(f"{name}: {value}")


def measured(out: Path, truth: dict[str, Pose]) -> dict[str, Any]:
    """What came out of a run on a folder of photos, compared with the true poses by image name."""
    (scene,) = json.loads((out / "run.json").read_text("utf-8"))["scenes"].values()
    (folder,) = out.glob("scenes/*/models/0")
    model, counts, count = read_model(folder), scene["counts"], len(truth)
    facts = {
        "pairs": f"{counts['pairs']} of {count * (count - 1) // 2}",
        "registered": f"{counts['registered']} of {count}",
        "seconds": round(sum(scene["seconds"].values())),
    }
    if model.alignment is None or model.alignment.origin is None:
        return {**facts, "aligned": "no", "warnings": scene["notes"]}
    names = list(model.poses)
    found = geographic(np.array([model.poses[name].center for name in names]), model.alignment.origin)
    errors = metres_between(found, geographic(np.array([truth[name].center for name in names]), ORIGIN))
    distances = np.linalg.norm(errors, axis=1)
    return {
        **facts,
        "distance of centres from GPS, median": f"{model.alignment.residual:.2f} m",
        "error of centres": f"median {np.median(distances):.2f} m, maximum {distances.max():.2f} m",
        "mean error east, north, up": ", ".join(f"{error:.2f} m" for error in errors.mean(axis=0)),
    }


def metres_between(found: Float64, true: Float64) -> Float64:
    """The differences east, north and up [N, 3] of two lists of latitudes, longitudes and altitudes."""
    import pycolmap

    gps = pycolmap.GPSTransform()
    return np.asarray(gps.ellipsoid_to_enu(found, *ORIGIN) - gps.ellipsoid_to_enu(true, *ORIGIN))


if __name__ == "__main__":
    main()
