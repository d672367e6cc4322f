"""Localise unregistered images in a model, in COLMAP's child process (see `steps.localise`)."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.bundle_adjustment import adjust, bad_camera, correspondence_graph, load_all, observed
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.mapping import intrinsics_are_per_image
from imc_kit.colmap.options import NOTHING_KNOWN, Known
from imc_kit.colmap.steps import LocalisationConfig
from imc_kit.colmap.support import Evidence, IdPair, Indices, agreement, epipolar_errors, read_evidence
from imc_kit.types import one_to_one_rows

_MORE = 1.2
"""Retry a failed image when its number of correspondences has grown by this factor."""


def localise_job(
    database: str, model: str, output: str, config: LocalisationConfig, fixed: bool, threads: int, seed: int,
    known: Known = NOTHING_KNOWN,
) -> None:  # fmt: skip
    """Add the images that can be localised, and write the model to `output` if there are any.

    fixed: whether the poses and intrinsics of the model stay as they are.
    """
    reconstruction = pycolmap.Reconstruction(model)
    given = set(reconstruction.reg_image_ids())
    with pycolmap.Database.open(database) as opened:
        _check_keypoints(reconstruction, opened)
        inside = [pair for pair in sorted(id_pair_counts(opened, verified=True)) if given.issuperset(pair)]
        verified = read_evidence(opened, inside)
        matched = sorted(id_pair_counts(opened, verified=False))
        raw = read_evidence(opened, [pair for pair in matched if not given.issuperset(pair)], verified=False)
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions(load_all_images=True))
    per_image = intrinsics_are_per_image(Path(database), known)
    before = agreement(reconstruction, verified, inside)
    deadline = time.monotonic() + config.time_limit / 2  # images found by then still need bundle adjustment
    load_all(reconstruction, cache)
    for _ in range(config.rounds):
        count = reconstruction.num_reg_images()
        found = pycolmap.Reconstruction(reconstruction)
        if not Search(found, raw, config, seed, known.ids).run(deadline):
            break
        graph = correspondence_graph(found, verified.matches | guided_matches(found, raw, config.max_match_error))
        free = pycolmap.Reconstruction(found)
        if not fixed:
            adjust(free, graph, per_image, threads, seed, known)
            after = agreement(free, verified, inside)
            print(f"agreeing matches inside the model: {before} before, {after} after; posed: {free.num_reg_images()}")
        if not fixed and given.issubset(free.reg_image_ids()) and after[0] >= before[0] - config.max_loss * before[1]:
            found = free
        else:  # the new images would distort the model, so its own poses stay fixed
            adjust(found, graph, per_image, threads, seed, known, fixed=given)
        if found.num_reg_images() <= count or not given.issubset(found.reg_image_ids()):
            break
        reconstruction = found
    if set(reconstruction.reg_image_ids()) - given:
        reconstruction.tear_down()
        reconstruction.write(output)


def _check_keypoints(reconstruction: Any, opened: Any) -> None:
    """Raise ValueError unless the posed images have as many keypoints as in the open database."""
    for image_id in sorted(reconstruction.reg_image_ids()):
        count = reconstruction.images[image_id].num_points2D()
        if opened.exists_image(image_id) and opened.num_keypoints_for_image(image_id) != count:
            raise ValueError(f"the model and the database have different keypoints of image {image_id}")


def guided_matches(reconstruction: Any, raw: Evidence, max_error: float) -> dict[IdPair, Indices]:
    """The matches of posed images that agree with their poses."""
    posed = set(reconstruction.reg_image_ids())
    return {
        pair: matches[epipolar_errors(reconstruction, raw, pair) <= max_error]
        for pair, matches in raw.matches.items()
        if posed.issuperset(pair)
    }


class Search:
    """One pass over the unposed images of a reconstruction. Those that see most of its points come first."""

    def __init__(
        self, reconstruction: Any, raw: Evidence, config: LocalisationConfig, seed: int, known: Iterable[int] = ()
    ) -> None:
        self.reconstruction, self.raw, self.config, self.seed = reconstruction, raw, config, seed
        posed = reconstruction.reg_image_ids()
        self.points = {image_id: observed(reconstruction.images[image_id]) for image_id in posed}
        """The 3D point of each keypoint of the posed images."""
        self.cameras = {reconstruction.images[image_id].camera_id for image_id in posed} | {*known}
        """The cameras with known intrinsics, from the model or from the user."""
        self.matches: dict[int, dict[int, Indices]] = {}
        for (first, second), matches in raw.matches.items():
            self.matches.setdefault(first, {})[second] = matches
            self.matches.setdefault(second, {})[first] = matches[:, ::-1]

    def run(self, deadline: float) -> list[int]:
        """Give poses and observations to the images that can be localised, and return their ids."""
        gained: list[int] = []
        tried: dict[int, int] = {}
        pairs = {image_id: self.correspondences(image_id) for image_id in sorted(self.matches.keys() - self.points)}
        sees = {image_id: _keypoints(found) for image_id, found in pairs.items()}
        while time.monotonic() < deadline:
            enough = {image_id: max(self.config.min_inliers, _MORE * tried.get(image_id, 0)) for image_id in pairs}
            waiting = [image_id for image_id, found in pairs.items() if len(found) >= enough[image_id]]
            if not waiting:
                break
            best = max(waiting, key=sees.__getitem__)
            tried[best] = len(pairs[best])
            if changed := self.localise(best, pairs[best]):
                gained.append(best)
                del pairs[best]
                for image_id in set().union(*(self.matches[number] for number in changed)) & pairs.keys():
                    pairs[image_id] = self.correspondences(image_id)
                    sees[image_id] = _keypoints(pairs[image_id])
        return gained

    def correspondences(self, image_id: int) -> NDArray[np.int64]:
        """The 2D–3D correspondences of an image: rows (keypoint, 3D point, number of supporting matches), [K, 3]."""
        rows = [np.empty((0, 2), np.int64)]
        for other, matches in self.matches[image_id].items():
            if other in self.points:
                points = self.points[other][matches[:, 1]]
                rows.append(np.stack([matches[:, 0], points], 1)[points >= 0].astype(np.int64))
        return np.column_stack(np.unique(np.concatenate(rows), axis=0, return_counts=True))

    def localise(self, image_id: int, pairs: NDArray[np.int64]) -> set[int]:
        """Estimate an image's pose from its 2D–3D correspondences and add it.

        Returns the images whose observations changed, this one included; none if that failed.
        """
        image = self.reconstruction.images[image_id]
        camera = pycolmap.Camera(self.reconstruction.cameras[image.camera_id].todict())
        answer = self._estimate_pose(image, camera, pairs)
        inliers = pairs[answer["inlier_mask"]] if answer else pairs[:0]
        inliers = inliers[one_to_one_rows(inliers[:, :2], inliers[:, 2])]
        needed = max(self.config.min_inliers, self.config.min_inlier_ratio * len(np.unique(pairs[:, 0])))
        found = len(inliers) >= needed and (image.camera_id in self.cameras or not bad_camera(camera))
        print(f"{image.name}: {len(inliers)} of {len(pairs)} points fit: {'localised' if found else 'not localised'}")
        if not found:
            return set()
        if image.camera_id not in self.cameras:
            self.reconstruction.cameras[image.camera_id].params = camera.params
            self.cameras.add(image.camera_id)
        image.frame.set_cam_from_world(image.camera_id, answer["cam_from_world"])
        self.reconstruction.register_frame(image.frame_id)
        for index, point in inliers[:, :2].tolist():
            self.reconstruction.add_observation(point, pycolmap.TrackElement(image_id, index))
        return self._triangulate(image_id)

    def _estimate_pose(self, image: Any, camera: Any, pairs: NDArray[np.int64]) -> Any:
        """Estimate an image's pose and inliers, or None if that fails. Sets unknown intrinsics in `camera`."""
        known = image.camera_id in self.cameras
        estimation = pycolmap.AbsolutePoseEstimationOptions()
        estimation.estimate_focal_length = not known and not camera.has_prior_focal_length
        estimation.ransac.max_error = self.config.max_error
        estimation.ransac.min_inlier_ratio = self.config.min_inlier_ratio
        estimation.ransac.random_seed = self.seed
        refinement = pycolmap.AbsolutePoseRefinementOptions(
            refine_focal_length=not known, refine_extra_params=not known
        )
        return pycolmap.estimate_and_refine_absolute_pose(
            self.raw.keypoints[image.image_id][pairs[:, 0]],
            np.array([self.reconstruction.points3D[point].xyz for point in pairs[:, 1]]),
            camera,
            estimation,
            refinement,
        )

    def _triangulate(self, image_id: int) -> set[int]:
        """Triangulate 3D points that a new image sees together with posed images; returns all these images."""
        own = replace(self.raw, matches={pair: m for pair, m in self.raw.matches.items() if image_id in pair})
        guided = guided_matches(self.reconstruction, own, self.config.max_match_error)
        graph = correspondence_graph(self.reconstruction, guided)
        triangulator = pycolmap.IncrementalTriangulator(graph, self.reconstruction)
        triangulator.triangulate_image(pycolmap.IncrementalTriangulatorOptions(random_seed=self.seed), image_id)
        changed = {image_id, *(other for pair in guided for other in pair)}
        self.points |= {number: observed(self.reconstruction.images[number]) for number in changed}
        return changed


def _keypoints(pairs: NDArray[np.int64]) -> int:
    """The number of keypoints with 2D–3D correspondences."""
    return len(np.unique(pairs[:, 0]))
