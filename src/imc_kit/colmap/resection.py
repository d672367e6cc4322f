"""Finding the cameras of unregistered images from a model, in COLMAP's child process (see `localisation`)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.adjustment import adjust, correspondence_graph, load_all, observed, one_to_one, read_matched_pairs
from imc_kit.colmap.mapping import cameras_are_own
from imc_kit.colmap.support import Evidence, IdPair, Indices, agreement, epipolar_errors, read_evidence

if TYPE_CHECKING:
    from imc_kit.colmap.localisation import LocalisationConfig


def localise(database: str, model: str, output: str, config: LocalisationConfig, threads: int, seed: int) -> None:
    """Add the images that can be localised, and write the model to `output`, if there were any."""
    reconstruction = pycolmap.Reconstruction(model)
    given = set(reconstruction.reg_image_ids())
    with pycolmap.Database.open(database) as opened:
        for image_id in sorted(given):
            count = reconstruction.images[image_id].num_points2D()
            if opened.exists_image(image_id) and opened.num_keypoints_for_image(image_id) != count:
                raise ValueError(f"the model and the database have other keypoints of image {image_id}")
        inside = [pair for pair in read_matched_pairs(opened) if given.issuperset(pair)]
        verified = read_evidence(opened, inside)
        outside = [pair for pair in read_matched_pairs(opened, verified=False) if not given.issuperset(pair)]
        raw = read_evidence(opened, outside, verified=False)
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions(load_all_images=True))
    strict = cameras_are_own(Path(database))
    before = agreement(reconstruction, verified, inside)
    deadline = time.monotonic() + config.time_limit / 2  # what is found by then must still be adjusted
    load_all(reconstruction, cache)
    for _ in range(config.rounds):
        count = reconstruction.num_reg_images()
        found = pycolmap.Reconstruction(reconstruction)
        if not Search(found, raw, config, seed).run(deadline):
            break
        graph = correspondence_graph(found, verified.matches | guided_matches(found, raw, config.max_match_error))
        free = pycolmap.Reconstruction(found)
        adjust(free, graph, strict, threads, seed)
        after = agreement(free, verified, inside)
        print(f"matches inside the model that agree: {before} before, {after} after; posed: {free.num_reg_images()}")
        if given.issubset(free.reg_image_ids()) and after[0] >= before[0] - config.max_loss * before[1]:
            found = free
        else:  # it has been bent: so let it be as it was
            adjust(found, graph, strict, threads, seed, fixed=given)
        if found.num_reg_images() <= count or not given.issubset(found.reg_image_ids()):
            break
        reconstruction = found
    if set(reconstruction.reg_image_ids()) - given:
        reconstruction.tear_down()
        reconstruction.write(output)


def guided_matches(reconstruction: Any, raw: Evidence, max_error: float) -> dict[IdPair, Indices]:
    """Of the matches of two images with poses those that agree with these."""
    posed = set(reconstruction.reg_image_ids())
    return {
        pair: matches[epipolar_errors(reconstruction, raw, pair) <= max_error]
        for pair, matches in raw.matches.items()
        if posed.issuperset(pair)
    }


class Search:
    """One pass over the images of a reconstruction without poses, those that see most of its points first."""

    def __init__(self, reconstruction: Any, raw: Evidence, config: LocalisationConfig, seed: int) -> None:
        self.reconstruction, self.raw, self.config, self.seed = reconstruction, raw, config, seed
        posed = reconstruction.reg_image_ids()
        self.points = {image_id: observed(reconstruction.images[image_id]) for image_id in posed}
        """For each keypoint of the images with poses its 3D point."""
        self.cameras = {reconstruction.images[image_id].camera_id for image_id in posed}
        self.matches: dict[int, dict[int, Indices]] = {}
        for (first, second), matches in raw.matches.items():
            self.matches.setdefault(first, {})[second] = matches
            self.matches.setdefault(second, {})[first] = matches[:, ::-1]

    def run(self, deadline: float) -> list[int]:
        """Give poses and observations to what can be localised; the ids of these images."""
        gained: list[int] = []
        tried: dict[int, int] = {}
        while time.monotonic() < deadline:
            waiting = {}
            for image_id in sorted(self.matches.keys() - self.points.keys()):
                pairs = self.correspondences(image_id)
                if len(pairs) >= max(self.config.min_inliers, 1.2 * tried.get(image_id, 0)):
                    waiting[image_id] = pairs
            if not waiting:
                break
            best = max(waiting, key=lambda image_id: len(np.unique(waiting[image_id][:, 0])))
            tried[best] = len(waiting[best])
            if self.register(best, waiting[best]):
                gained.append(best)
        return gained

    def correspondences(self, image_id: int) -> NDArray[np.int64]:
        """Each keypoint of an image with each 3D point that a match gives it, and by how many matches, [K, 3]."""
        rows = [np.empty((0, 2), np.int64)]
        for other, matches in self.matches[image_id].items():
            if other in self.points:
                points = self.points[other][matches[:, 1]]
                rows.append(np.stack([matches[:, 0], points], 1)[points >= 0].astype(np.int64))
        return np.column_stack(np.unique(np.concatenate(rows), axis=0, return_counts=True))

    def register(self, image_id: int, pairs: NDArray[np.int64]) -> bool:
        """Give an image its pose, observations, and the points that it makes possible; whether it could be found."""
        image = self.reconstruction.images[image_id]
        camera = pycolmap.Camera(self.reconstruction.cameras[image.camera_id].todict())
        known = image.camera_id in self.cameras
        estimation = pycolmap.AbsolutePoseEstimationOptions()
        estimation.estimate_focal_length = not known and not camera.has_prior_focal_length
        estimation.ransac.max_error = self.config.max_error
        estimation.ransac.min_inlier_ratio = self.config.min_inlier_ratio
        estimation.ransac.random_seed = self.seed
        refinement = pycolmap.AbsolutePoseRefinementOptions(
            refine_focal_length=not known, refine_extra_params=not known
        )
        answer: Any = pycolmap.estimate_and_refine_absolute_pose(
            self.raw.keypoints[image_id][pairs[:, 0]],
            np.array([self.reconstruction.points3D[point].xyz for point in pairs[:, 1]]),
            camera,
            estimation,
            refinement,
        )
        inliers = one_to_one(pairs[answer["inlier_mask"]]) if answer else pairs[:0]
        found = len(inliers) >= max(
            self.config.min_inliers, self.config.min_inlier_ratio * len(np.unique(pairs[:, 0]))
        ) and not camera.has_bogus_params(0.1, 10.0, 1.0)
        print(
            f"{image.name}: {len(pairs)} correspondences, {len(inliers)} inliers: {'found' if found else 'not found'}"
        )
        if not found:
            return False
        if not known:
            self.reconstruction.cameras[image.camera_id].params = camera.params
            self.cameras.add(image.camera_id)
        image.frame.set_cam_from_world(image.camera_id, answer["cam_from_world"])
        self.reconstruction.register_frame(image.frame_id)
        for index, point in inliers[:, :2].tolist():
            self.reconstruction.add_observation(point, pycolmap.TrackElement(image_id, index))
        own = replace(self.raw, matches={pair: m for pair, m in self.raw.matches.items() if image_id in pair})
        guided = guided_matches(self.reconstruction, own, self.config.max_match_error)
        triangulator = pycolmap.IncrementalTriangulator(
            correspondence_graph(self.reconstruction, guided), self.reconstruction
        )
        triangulator.triangulate_image(pycolmap.IncrementalTriangulatorOptions(random_seed=self.seed), image_id)
        for changed in {image_id, *(other for pair in guided for other in pair)}:
            self.points[changed] = observed(self.reconstruction.images[changed])
        return True
