"""Find where the images of a track show the same spot, to a fraction of a pixel, by aligning small patches.

One image of each track is the reference. Its patch is warped into the others by the plane through the 3D point that
faces the cameras, and shifted until the brightness agrees best up to gain and offset: Lucas and Kanade (IJCAI 1981) on
zero-mean, unit-norm patches, as in patch-based multi-view stereo (Furukawa and Ponce, PAMI 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float32, Float64, Mask

Grey: TypeAlias = NDArray[Any]
"""A grey image, float32 [h, w]."""
_ITERATIONS = 8
"""Steps of an alignment. With fewer, slanted patches stop too early; most stand still before that."""
_LONGEST_STEP = 1.0
"""Pixels. The linear approximation holds for about a pixel."""
_STANDING = 0.03
"""Pixels. A patch that moves less has arrived."""
_LEAST_CONTRAST = 2.0
"""Standard deviation of a usable reference patch, in grey levels of 255: flat patches fit anywhere."""
_SCALES = 0.3, 3.0
"""The range of an image's scale compared with the reference. Beyond it, the patches show different detail."""
_SCALE_COST = 0.3
"""The reference sees its point frontally and at a medium scale. A scale off by a factor e costs as much as an angle
of 45 degrees."""


@dataclass(frozen=True, eq=False)
class Observations:
    """All observations of a model's 3D points.

    images, keypoints, tracks: the image id, the index of the keypoint, and the number of the track, int [N] each.
    positions: in COLMAP's pixels of the full image, [N, 2].
    warps: from pixels of the reference image to pixels of this one, near the 3D point, [N, 2, 2].
    reference: whether this is its track's reference.
    """

    images: NDArray[np.int64]
    keypoints: NDArray[np.int64]
    tracks: NDArray[np.int64]
    positions: Float64
    warps: Float64
    reference: Mask


def observations(reconstruction: Any, fixed: Collection[int] = ()) -> Observations | None:
    """The observations of the 3D points that an image sees whose id is not in `fixed`; None if there are none."""
    images, keypoints, seen, positions = _observed(reconstruction)
    wanted = np.flatnonzero(np.isin(seen, seen[~np.isin(images, list(fixed))]))
    if not len(wanted):
        return None
    wanted = wanted[np.argsort(seen[wanted], kind="stable")]
    images, keypoints, seen, positions = images[wanted], keypoints[wanted], seen[wanted], positions[wanted]
    numbers, tracks = np.unique(seen, return_inverse=True)
    points = np.array([reconstruction.points3D[number].xyz for number in numbers.tolist()])
    posed = {image: reconstruction.images[image] for image in np.unique(images).tolist()}
    centers = {image: one.projection_center() for image, one in posed.items()}
    rays = np.array([centers[image] for image in images.tolist()]) - points[tracks]
    distances = np.linalg.norm(rays, axis=1)
    rays /= distances[:, None]
    focals = np.array([reconstruction.cameras[one.camera_id].mean_focal_length() for one in posed.values()])
    pixels = focals[np.searchsorted(list(posed), images)] / distances  # per unit of length
    normals = np.zeros_like(points)
    np.add.at(normals, tracks, rays)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    reference = _references(tracks, (rays * normals[tracks]).sum(1), np.log(pixels))
    # Two directions in the plane that faces the cameras; the derivative of the projection along them is a local warp.
    along = np.cross(normals, np.eye(3)[np.abs(normals).argmin(1)])
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    plane = np.stack([along, np.cross(normals, along)], 1)
    slopes = np.empty((len(tracks), 2, 2))
    for image, one in posed.items():
        here = np.flatnonzero(images == image)
        step = 1 / pixels[here, None]  # of about one pixel

        def project(where: Float64, one: Any = one) -> Float64:
            motion = one.cam_from_world().matrix()
            camera = reconstruction.cameras[one.camera_id]
            return np.asarray(camera.img_from_cam(where @ motion[:, :3].T + motion[:, 3]), np.float64)

        at = points[tracks[here]]
        for axis in (0, 1):
            shift = step * plane[tracks[here], axis]
            slopes[here, :, axis] = (project(at + shift) - project(at - shift)) / (2 * step)
    first = slopes[reference]  # one for each track, in order, because tracks are contiguous
    degenerate = np.abs(np.linalg.det(first)) < 1e-12 * np.square(first).sum((1, 2)) + 1e-300
    first[degenerate] = np.eye(2)
    return Observations(images, keypoints, tracks, positions, slopes @ np.linalg.inv(first)[tracks], reference)


def _observed(reconstruction: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Float64]:
    """The image id, the index of the keypoint, the id of the 3D point, and the position in COLMAP's pixels of every
    observation of a 3D point, [N] each and [N, 2], image by image."""
    images, keypoints, points, positions = [], [], [], []
    for number in sorted(reconstruction.reg_image_ids()):
        image = reconstruction.images[number]
        seen = image.get_observation_points2D()
        images += [number] * len(seen)
        keypoints += image.get_observation_point2D_idxs()
        points += [point.point3D_id for point in seen]
        positions += [point.xy for point in seen]
    whole = np.array([images, keypoints, points], np.int64)
    return whole[0], whole[1], whole[2], np.array(positions, np.float64).reshape(-1, 2)


def _references(tracks: NDArray[np.int64], frontal: Float64, scales: Float64) -> Mask:
    """Which observation of each track is the reference. frontal: cosines of the viewing angles; scales: logarithms."""
    starts = np.flatnonzero(np.diff(tracks, prepend=-1))
    lengths = np.diff(starts, append=len(tracks))
    medians = scales[np.lexsort((scales, tracks))][starts + lengths // 2]
    cost = 1 - frontal + _SCALE_COST * np.abs(scales - medians[tracks])
    reference = np.zeros(len(tracks), np.bool_)
    reference[np.lexsort((cost, tracks))[starts]] = True
    return reference


def align(
    found: Observations,
    grey: Callable[[int], tuple[Grey, Float64]],
    each: Callable[[Callable[[int], None], Iterable[int]], Any],
    radius: int,
    max_move: float,
    min_correlation: float,
) -> tuple[Float64, Mask]:
    """Align every observation with its reference.

    grey: returns an image by its id, perhaps reduced, and its pixels per pixel of the full image, [2].
    each: calls a function with each of some image ids, perhaps in threads.
    radius: patches have 2 · radius + 1 pixels on a side. max_move: the longest accepted shift, in pixels of the image
        that `grey` returns. min_correlation: the least accepted correlation of two patches, −1 … 1.

    Returns positions in the full image, [N, 2], and which observations were aligned; the others keep their positions.
    """
    side = np.arange(-radius, radius + 1, dtype=np.float64)
    offsets = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    templates = np.zeros((len(found.reference), len(offsets)), np.float32)
    row = np.flatnonzero(found.reference)[found.tracks]  # of each observation's reference
    scales = np.ones((len(row), 2))
    contrast = np.zeros(len(row))
    positions, aligned = found.positions.copy(), np.zeros(len(row), np.bool_)

    def take(image: int) -> None:
        here = np.flatnonzero((found.images == image) & found.reference)
        pixels, scale = grey(image)
        scales[found.images == image] = scale
        if len(here):
            upright = np.broadcast_to(np.eye(2), (len(here), 2, 2))
            templates[here], contrast[here] = _normalised(_patches(pixels, positions[here] * scale, upright, offsets))

    def shift(image: int) -> None:
        here = np.flatnonzero((found.images == image) & ~found.reference)
        pixels, scale = grey(image)
        warps = scale[:, None] * found.warps[here] / scales[row[here]][:, None]
        size = np.sqrt(np.abs(np.linalg.det(warps)))
        usable = (size > _SCALES[0]) & (size < _SCALES[1]) & (contrast[row[here]] >= _LEAST_CONTRAST)
        here, warps = here[usable], warps[usable]
        if len(here):
            at = found.positions[here] * scale
            moves, correlations = _track(pixels, templates[row[here]], at, warps, offsets, max_move)
            fits = (correlations >= min_correlation) & (np.linalg.norm(moves, axis=1) <= max_move)
            positions[here[fits]] = (at + moves)[fits] / scale
            aligned[here[fits]] = True

    everywhere = np.unique(found.images).tolist()
    each(take, everywhere)
    each(shift, everywhere)
    return positions, aligned


def _track(
    pixels: Grey, templates: Float32, at: Float64, warps: Float64, offsets: Float64, max_move: float
) -> tuple[Float64, Float64]:
    """The shift [K, 2] with the best correlation [K] of each patch of an image with its template."""
    shape = -1, *(2 * [round(len(offsets) ** 0.5)])
    moves, best_moves, best = np.zeros_like(at), np.zeros_like(at), np.full(len(at), -np.inf)
    active = np.arange(len(at))
    for _ in range(_ITERATIONS + 1):
        patches, _ = _normalised(_patches(pixels, (at + moves)[active], warps[active], offsets))
        correlation = np.einsum("kp,kp->k", patches, templates[active])
        better = correlation > best[active]
        best[active[better]], best_moves[active[better]] = correlation[better], moves[active[better]]
        step = (warps[active] @ _gauss_newton(patches, templates[active] - patches, shape)[..., None])[..., 0]
        moves[active] += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        near = np.linalg.norm(moves[active], axis=1) <= max_move + _LONGEST_STEP
        active = active[near & (np.abs(step).max(1) > _STANDING)]
        if not len(active):
            break
    return best_moves, best


def _gauss_newton(patches: Float32, differences: Float32, shape: tuple[int, ...]) -> Float64:
    """The shift [K, 2], in pixels of the patches, that makes up best for the differences [K, P]."""
    square, x, y = patches.reshape(shape), np.zeros_like(patches), np.zeros_like(patches)
    x.reshape(shape)[:, :, 1:-1] = (square[:, :, 2:] - square[:, :, :-2]) / 2
    y.reshape(shape)[:, 1:-1] = (square[:, 2:] - square[:, :-2]) / 2
    xx, xy, yy, x_by, y_by = (
        np.einsum("kp,kp->k", one, other).astype(np.float64)
        for one, other in ((x, x), (x, y), (y, y), (x, differences), (y, differences))
    )
    determinant = np.maximum(xx * yy - xy * xy, 1e-12)  # 0 for a patch that changes along one direction only
    return np.asarray(np.stack([yy * x_by - xy * y_by, xx * y_by - xy * x_by], 1) / determinant[:, None], np.float64)


def _patches(pixels: Grey, at: Float64, warps: Float64, offsets: Float64) -> Float32:
    """Patches of an image, [K, P]. at: their centres in COLMAP's pixels."""
    where = (at[:, None] + offsets @ warps.transpose(0, 2, 1) - 0.5).astype(np.float32)
    rows = 2**15 // where.shape[1]  # OpenCV's images have fewer than 2¹⁵ rows
    parts = [
        cv2.remap(pixels, part[..., 0], part[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for part in (where[start : start + rows] for start in range(0, len(where), rows))
    ]
    return np.concatenate(parts)


def _normalised(patches: Float32) -> tuple[Float32, Float64]:
    """Patches with mean 0 and length 1, and the standard deviations that they had."""
    centered = patches - patches.mean(1, keepdims=True)
    deviations = centered.std(1)
    return centered / np.maximum(deviations[:, None] * patches.shape[1] ** 0.5, 1e-6), deviations
