"""How many right matches a detector and matcher find if the second photo of a pair is rolled.

    python benchmarks/rolled.py ROOT --scenes fountain_P11 castle_P19 [--pipelines sift+nearest xfeat+lightglue]

ROOT has a competition's layout, with truth.csv. Of each scene, the pair whose optical axes are nearest to 15° apart is
matched. Only the middle of the photos counts, so that no roll brings corners without pixels into view: `SHARE` of each
side. A match is right as in `precision.py`, in the photos as they were.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from imc_kit.config import feature_pipeline
from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.detectors import extract
from precision import RIGHT, views
from true_geometry import distances

ANGLES = 0, 15, 30, 45, 60, 90, 180
"""Clockwise roll of the second photo, in degrees."""
SHARE = 0.555
"""A rectangle of this share of a photo of 3:2 fits into it at any roll."""


def rolled(photo: Photo, degrees: float) -> tuple[Photo, np.ndarray]:
    """The middle of a photo, rolled about its centre, and the affine map [2, 3] back to the photo's pixels."""
    height, width = photo.pixels.shape[:2]
    size = int(SHARE * width), int(SHARE * height)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    back = np.array([[cosine, sine], [-sine, cosine]])
    centre, middle = (np.array([width, height]) - 1) / 2, (np.array(size) - 1) / 2
    back = np.column_stack([back, centre - back @ middle])
    pixels = cv2.warpAffine(photo.pixels, back, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return Photo(np.asarray(pixels, np.uint8), size, 0, False), back


def main() -> None:
    parser = argparse.ArgumentParser(description="Right matches of a pair, by the roll of its second photo.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument("--pipelines", nargs="+", default=["sift+nearest", "xfeat+lightglue"])
    parser.add_argument("--keypoints", type=int, default=1024, help="maximum per photo; default: 1024")
    parser.add_argument("--long-side", type=int, default=1600, help="of photos, in pixels; default: 1600")
    arguments = parser.parse_args()
    print(f"| scene | features | {' | '.join(f'{angle}°' for angle in ANGLES)} |")
    print(f"|---|---|{'--:|' * len(ANGLES)}")
    for scene in arguments.scenes:
        pair = views(arguments.root, scene, arguments.long_side)[0]
        first, second = (images.load(path, arguments.long_side) for path in pair.paths)
        for name in arguments.pipelines:
            pipeline = feature_pipeline(name)
            detector = replace(pipeline.detector, max_keypoints=arguments.keypoints).create()
            matcher, right = pipeline.matcher.create(detector.config.kind), []
            for angle in ANGLES:
                (one, to_first), (other, to_second) = rolled(first, 0), rolled(second, angle)
                features = extract(detector, [one, other])
                rows = matcher.match(*features).indices.T
                points = tuple(
                    photo.to_original((found.keypoints[row] @ back[:, :2].T + back[:, 2]).astype(np.float32))
                    for photo, found, row, back in zip(
                        (first, second), features, rows, (to_first, to_second), strict=True
                    )
                )
                right.append(int((distances(points, pair.poses, pair.camera) < RIGHT).sum()))
            print(f"| {scene} | {name} | {' | '.join(map(str, right))} |", flush=True)


if __name__ == "__main__":
    main()
