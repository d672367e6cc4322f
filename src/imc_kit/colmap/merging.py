"""Merge the partial models of a scene, in COLMAP's child process (see `steps.merge_models`)."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.bundle_adjustment import adjust, correspondence_graph, load_all, observed
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.mapping import intrinsics_are_per_image
from imc_kit.colmap.options import NOTHING_KNOWN, Known
from imc_kit.colmap.steps import MergingConfig
from imc_kit.colmap.support import Evidence, agreement, read_evidence
from imc_kit.types import Float64, one_to_one_rows

_SCALES = (0.005, 0.02, 0.08)
"""RANSAC looks for a similarity with each of these maximum 3D errors, as fractions of the points' median distance to
the cameras: the precision of points varies with the triangulation angle. Errors in the images then decide
(`MergingConfig.max_error`)."""
_TRIALS = 10000
"""Maximum number of RANSAC trials. RANSAC stops earlier when it is confident."""


@dataclass(frozen=True, eq=False)
class Links:
    """K 3D–3D correspondences between one model (the source) and another (the target).

    A link comes from a verified match between an image of each model, or from an image that both have.
    """

    points: tuple[Float64, Float64]
    """In the source's and in the target's frame, [K, 3]."""
    images: tuple[NDArray[np.int64], NDArray[np.int64]]
    """The image of each model that sees the point, [K]."""
    pixels: tuple[Float64, Float64]
    """Where these images see it, [K, 2]."""

    def __len__(self) -> int:
        return len(self.images[0])


def merge_job(
    database: str, models: Sequence[str], output: str, config: MergingConfig, threads: int, seed: int,
    known: Known = NOTHING_KNOWN,
) -> None:  # fmt: skip
    """Merge the models that belong together, and write all to `output`/0, 1, …, largest first."""
    with pycolmap.Database.open(database) as opened:
        evidence = read_evidence(opened, sorted(id_pair_counts(opened, verified=True)))
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions(load_all_images=True))
    per_image = intrinsics_are_per_image(Path(database), known)
    merger = _Merger(evidence, cache, config, per_image, threads, seed, known)
    deadline = time.monotonic() + config.time_limit / 2  # a merge that starts by then still needs bundle adjustment
    waiting = _by_size([pycolmap.Reconstruction(model) for model in models])
    merged = []
    while waiting:
        lead = waiting.pop(0)
        number = 0
        while number < len(waiting) and time.monotonic() < deadline:
            both = merger.merge(lead, waiting[number])
            if both is None:
                number += 1
            else:
                lead = both
                waiting.pop(number)
                number = 0  # models that did not fit before may fit now
        merged.append(lead)
    for number, model in enumerate(_by_size(merged)):
        (Path(output) / str(number)).mkdir()
        model.write(Path(output) / str(number))


def _by_size(models: Sequence[Any]) -> list[Any]:
    return sorted(models, key=lambda model: -model.num_reg_images())


@dataclass(frozen=True, eq=False)
class _Merger:
    """What all merges of a scene share."""

    evidence: Evidence
    cache: Any
    config: MergingConfig
    per_image: bool
    threads: int
    seed: int
    known: Known

    def merge(self, lead: Any, other: Any) -> Any | None:
        """Both models in the lead's frame, bundle-adjusted; None if they do not fit or the matches contradict it."""
        if set(other.reg_image_ids()) <= set(lead.reg_image_ids()):
            return None  # it adds nothing
        similarity = find_similarity(other, lead, self.evidence, self.config, self.seed)
        if similarity is None:
            return None
        merged = united(lead, [(other, similarity)], self.cache)
        observations, images = merged.compute_num_observations(), set(merged.reg_image_ids())
        graph = correspondence_graph(merged, self.evidence.matches)
        adjust(merged, graph, self.per_image, self.threads, self.seed, self.known)
        still_posed = set(merged.reg_image_ids()) == images
        enough = merged.compute_num_observations() >= self.config.min_kept * observations
        return merged if still_posed and enough and self._agrees(merged, lead, other) else None

    def _agrees(self, merged: Any, lead: Any, other: Any) -> bool:
        """Whether the merged model agrees with each model's own matches about as well as that model did, and with
        enough of the matches between them."""
        inside = [set(model.reg_image_ids()) for model in (lead, other)]
        own = [[pair for pair in self.evidence.matches if set(pair) <= ids] for ids in inside]
        before = np.add(agreement(lead, self.evidence, own[0]), agreement(other, self.evidence, own[1]))
        after = np.add(agreement(merged, self.evidence, own[0]), agreement(merged, self.evidence, own[1]))
        between = agreement(merged, self.evidence, set(self.evidence.matches).difference(*own))
        print(
            f"merged {len(inside[0])} and {len(inside[1])} images: agreeing matches {before} before, {after} after, "
            f"{between} between them"
        )
        share_before, share_after = (agreeing / max(total, 1) for agreeing, total in (before, after))
        return bool(
            share_after >= share_before - self.config.max_loss and between[0] >= self.config.min_agreement * between[1]
        )


def find_similarity(source: Any, target: Any, evidence: Evidence, config: MergingConfig, seed: int) -> Any | None:
    """The similarity from one model's frame to another's (`pycolmap.Sim3d`), or None if the evidence is too weak."""
    links = _links(source, target, evidence)
    best, best_count = None, 0
    for candidate in _from_points(links, target, seed):
        inliers = _fits(candidate, links, source, target, config.max_error)
        again = pycolmap.estimate_sim3d(*(points[inliers] for points in links.points)) if inliers.sum() >= 3 else None
        for found in (candidate, again):
            count = int(_fits(found, links, source, target, config.max_error).sum()) if found else 0
            if count > best_count:
                best, best_count = found, count
    print(f"one similarity fits {best_count} of {len(links)} links between the models")
    return best if best_count >= max(config.min_links, config.min_link_ratio * len(links)) else None


def _links(source: Any, target: Any, evidence: Evidence) -> Links:
    """The links between two models. Each point is in at most one link, the one with most support."""
    seen = [{i: observed(model.images[i]) for i in model.reg_image_ids()} for model in (source, target)]
    blocks = [(i, i, np.arange(len(seen[0][i]))[:, None].repeat(2, 1)) for i in sorted(seen[0]) if i in seen[1]]
    for (a, b), matches in evidence.matches.items():
        blocks += [(a, b, matches)] if a in seen[0] and b in seen[1] else []
        blocks += [(b, a, matches[:, ::-1])] if b in seen[0] and a in seen[1] else []
    rows = [np.empty((0, 6), np.int64)]
    for a, b, matches in blocks:
        ids = np.stack([seen[0][a][matches[:, 0]], seen[1][b][matches[:, 1]]], 1)
        found = (ids >= 0).all(1)
        rows.append(np.concatenate([ids, np.broadcast_to([a, b], ids.shape), matches], 1)[found].astype(np.int64))
    table = np.concatenate(rows)  # source point, target point, source image, target image, keypoint, keypoint
    pairs, first, votes = np.unique(table[:, :2], axis=0, return_index=True, return_counts=True)
    table = table[first[one_to_one_rows(pairs, votes)]]
    points, pixels = [], []
    for side, model in enumerate((source, target)):
        points.append(np.array([model.points3D[i].xyz for i in table[:, side]]).reshape(-1, 3))
        places = [model.images[i].point2D(k).xy for i, k in table[:, [2 + side, 4 + side]]]
        pixels.append(np.array(places).reshape(-1, 2))
    return Links((points[0], points[1]), (table[:, 2], table[:, 3]), (pixels[0], pixels[1]))


def _from_points(links: Links, target: Any, seed: int) -> Iterator[Any]:
    """Similarities that RANSAC finds between linked points."""
    if len(links) < 3:
        return
    centers = np.array([target.images[i].projection_center() for i in links.images[1]])
    distance = np.median(np.linalg.norm(links.points[1] - centers, axis=1))
    for scale in _SCALES:
        options = pycolmap.RANSACOptions(max_error=scale * distance, random_seed=seed, max_num_trials=_TRIALS)
        found: Any = pycolmap.estimate_sim3d_robust(*links.points, options)
        if found is not None:
            yield found["tgt_from_src"]


def _fits(similarity: Any, links: Links, source: Any, target: Any, max_error: float) -> NDArray[np.bool_]:
    """Which links fit, [K]: each point, moved to the other model, projects close to its partner's pixel there."""
    moved = similarity.inverse() * links.points[1], similarity * links.points[0]
    fits = np.ones(len(links), np.bool_)
    for side, model in enumerate((source, target)):
        for image_id in np.unique(links.images[side]):
            rows = links.images[side] == image_id
            image = model.images[image_id]
            seen = model.cameras[image.camera_id].img_from_cam(image.cam_from_world() * moved[side][rows])
            errors = np.linalg.norm(seen - links.pixels[side][rows], axis=1)
            fits[rows] &= errors <= max_error  # nan behind the camera: no fit
    return fits


def united(lead: Any, others: Sequence[tuple[Any, Any]], cache: Any) -> Any:
    """The lead with the additional images, points and observations of other models.

    others: each with the similarity (`pycolmap.Sim3d`) that moves it to the lead. The first that has an image poses it.
    """
    united = pycolmap.Reconstruction(lead)
    load_all(united, cache)
    posed = set(lead.reg_image_ids())
    cameras = {lead.images[i].camera_id for i in posed}
    for other, similarity in others:
        added = sorted(set(other.reg_image_ids()) - posed)
        for image_id in added:
            image = other.images[image_id]
            if image.camera_id not in cameras:
                united.cameras[image.camera_id].params = other.cameras[image.camera_id].params
            frame = united.frames[united.images[image_id].frame_id]
            frame.set_cam_from_world(image.camera_id, similarity.transform_camera_world(image.cam_from_world()))
            united.register_frame(frame.frame_id)
        posed.update(added)
        cameras |= {other.images[i].camera_id for i in added}
    united.tear_down()
    point_of = {i: observed(united.images[i]) for i in united.reg_image_ids()}
    for other, similarity in others:
        for _, point in sorted(other.points3D.items()):
            elements = [(element.image_id, element.point2D_idx) for element in point.track.elements]
            homes = Counter(int(point_of[image][index]) for image, index in elements if point_of[image][index] >= 0)
            free = [(image, index) for image, index in elements if point_of[image][index] < 0]
            if homes:  # the lead has this point: add the images that lack it
                home = homes.most_common(1)[0][0]
                present = {element.image_id for element in united.points3D[home].track.elements}
                free = [(image, index) for image, index in free if image not in present]
                for element in free:
                    united.add_observation(home, pycolmap.TrackElement(*element))
            elif len(free) >= 2:
                track = pycolmap.Track([pycolmap.TrackElement(*element) for element in free])
                home = united.add_point3D(similarity * point.xyz, track, point.color)
            for image, index in free:
                point_of[image][index] = home
    return united
