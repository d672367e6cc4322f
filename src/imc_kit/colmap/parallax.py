"""Whether photos were taken from one spot, so that the distances between their centres mean nothing."""

from pathlib import Path

import cv2
import numpy as np

from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.lenses import pinhole_points
from imc_kit.types import Model

NO_PARALLAX = "the photos show no parallax, as from a tripod: only their rotations mean something, not their centres"
_PAIRS = 12
"""Maximum number of pairs to look at, evenly from the most to the fewest matches. Each takes a few milliseconds."""
_SHARE = 0.5
"""More than this share of them must be without parallax. From a tripod 0.86 of all pairs are, and on the open scenes at
most 0.03."""
_EXPLAINED, _ERROR = 0.9, 3.0
"""A homography must explain this share of a pair's matches, to this many pixels: verification's tolerance."""
_TURNED = 1.1
"""The largest ratio of the singular values of K⁻¹ H K for a camera that only turns. It is 1 if the focal length is
right. For a plane seen by a moving camera, 1.1 is a step of a tenth of the distance."""


def without_parallax(database: Path, model: Model) -> bool:
    """Whether most pairs of a model's images are related by a rotation about the camera's centre.

    database: with verified matches.
    """
    import pycolmap

    turned = []
    with pycolmap.Database.open(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images() if image.name in model.poses}
        counts = id_pair_counts(opened, verified=True)
        pairs = sorted((pair for pair in counts if images.keys() >= set(pair)), key=lambda pair: -counts[pair])
        for pair in pairs[:: -(-len(pairs) // _PAIRS) or 1]:
            points, scales = [], []
            for number, rows in zip(pair, opened.read_two_view_geometry(*pair).inlier_matches.T, strict=True):
                camera = opened.read_camera(images[number].camera_id)
                half = np.array([camera.width, camera.height]) / 2
                points.append(pinhole_points(camera, opened.read_keypoints(number)[rows, :2]) - half)
                scales.append(np.append(model.frames[images[number].name] / half, 1.0))
            seen = np.isfinite(points[0]).all(1) & np.isfinite(points[1]).all(1)
            points = [one[seen] for one in points]
            homography, explained = cv2.findHomography(points[0], points[1], cv2.USAC_MAGSAC, _ERROR, maxIters=500)
            if homography is not None:
                values = np.linalg.svd(scales[1][:, None] * homography / scales[0], compute_uv=False)
                turned.append(explained.mean() >= _EXPLAINED and values[0] <= _TURNED * values[2])
    return bool(turned) and float(np.mean(turned)) > _SHARE
