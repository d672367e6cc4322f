"""Joining the partial models of a scene, in COLMAP's child process (see `merging`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.adjustment import adjust, correspondence_graph, load_all, observed, one_to_one, read_matched_pairs
from imc_kit.colmap.mapping import cameras_are_own
from imc_kit.colmap.support import Evidence, agreement, read_evidence
from imc_kit.types import Float64

if TYPE_CHECKING:
    from imc_kit.colmap.merging import MergingConfig

SCALES = (0.005, 0.02, 0.08)
"""Errors in space, as shares of the distance to the cameras, with which a similarity is sought: how well points are
known varies with the angles between cameras."""


@dataclass(frozen=True, eq=False)
class Links:
    """Points of one model (the source) and of another (the target) that show the same, K of each.

    A link stems from one image of each model that sees the point, or from one image that is in both.
    """

    points: tuple[Float64, Float64]
    """In the source's frame, and in the target's, [K, 3]."""
    images: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Of the source, and of the target, [K]."""
    pixels: tuple[Float64, Float64]
    """Where these see the point, [K, 2]."""

    def __len__(self) -> int:
        return len(self.images[0])


def merge(database: str, models: Sequence[str], output: str, config: MergingConfig, threads: int, seed: int) -> None:
    """Join what can be joined, and write the models to `output`/0, 1, …, those with most images first."""
    with pycolmap.Database.open(database) as opened:
        evidence = read_evidence(opened, read_matched_pairs(opened))
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions(load_all_images=True))
    strict = cameras_are_own(Path(database))
    deadline = time.monotonic() + config.time_limit / 2  # a join that has begun then must still be adjusted
    waiting = _by_size([pycolmap.Reconstruction(model) for model in models])
    merged = []
    while waiting:
        lead = waiting.pop(0)
        number = 0
        while number < len(waiting) and time.monotonic() < deadline:
            joined = _join(lead, waiting[number], evidence, cache, config, strict, threads, seed)
            if joined is None:
                number += 1
            else:
                lead = joined
                waiting.pop(number)
                number = 0  # what it could not be joined to before may be linked to it now
        merged.append(lead)
    for number, model in enumerate(_by_size(merged)):
        (Path(output) / str(number)).mkdir()
        model.write(Path(output) / str(number))


def _by_size(models: Sequence[Any]) -> list[Any]:
    return sorted(models, key=lambda model: -model.num_reg_images())


def _join(
    lead: Any, other: Any, evidence: Evidence, cache: Any, config: MergingConfig, strict: bool, threads: int, seed: int
) -> Any | None:
    """Both in the lead's frame, adjusted; None when they cannot be joined, or the matches contradict that."""
    if set(other.reg_image_ids()) <= set(lead.reg_image_ids()):
        return None  # it brings nothing new
    similarity = find_similarity(other, lead, evidence, config, seed)
    if similarity is None:
        return None
    joined = _united(lead, other, similarity, cache)
    observations = joined.compute_num_observations()
    images = set(joined.reg_image_ids())
    adjust(joined, correspondence_graph(joined, evidence.matches), strict, threads, seed)
    inside = [set(model.reg_image_ids()) for model in (lead, other)]
    own = [[pair for pair in evidence.matches if set(pair) <= ids] for ids in inside]
    before = np.add(agreement(lead, evidence, own[0]), agreement(other, evidence, own[1]))
    after = np.add(agreement(joined, evidence, own[0]), agreement(joined, evidence, own[1]))
    between = agreement(joined, evidence, set(evidence.matches).difference(*own))
    print(
        f"joined {len(inside[0])} and {len(inside[1])} images to {len(images)}: matches that agree {before} before, "
        f"{after} after, {between} between; observations {observations} to {joined.compute_num_observations()}"
    )
    kept = (
        set(joined.reg_image_ids()) == images
        and joined.compute_num_observations() >= config.min_kept * observations
        and after[0] / max(after[1], 1) >= before[0] / max(before[1], 1) - config.max_loss
        and between[0] >= config.min_agreement * between[1]
    )
    return joined if kept else None


def find_similarity(source: Any, target: Any, evidence: Evidence, config: MergingConfig, seed: int) -> Any | None:
    """The similarity from one model's frame to another's (pycolmap.Sim3d); None where too little speaks for any."""
    links = _links(source, target, evidence)
    best, best_count = None, 0
    for candidate in _from_points(links, target, seed):
        inliers = _fits(candidate, links, source, target, config.max_error)
        again = pycolmap.estimate_sim3d(*(points[inliers] for points in links.points)) if inliers.sum() >= 3 else None
        for found in (candidate, again):
            count = int(_fits(found, links, source, target, config.max_error).sum()) if found else 0
            if count > best_count:
                best, best_count = found, count
    print(f"{len(links)} links between models, of which one similarity fits {best_count}")
    if best_count >= max(config.min_links, config.min_link_ratio * len(links)):
        return best
    return _from_cameras(source, target, config.min_shared)


def _links(source: Any, target: Any, evidence: Evidence) -> Links:
    """Points that a shared image sees at one keypoint, or that verified matches join: of several, what most say."""
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
    table = np.concatenate(rows)
    pairs, first, votes = np.unique(table[:, :2], axis=0, return_index=True, return_counts=True)
    table = table[one_to_one(np.column_stack([pairs, votes, first]))[:, 3]]
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
    for scale in SCALES:
        options = pycolmap.RANSACOptions(max_error=scale * distance, random_seed=seed, max_num_trials=10000)
        found: Any = pycolmap.estimate_sim3d_robust(*links.points, options)
        if found is not None:
            yield found["tgt_from_src"]


def _fits(similarity: Any, links: Links, source: Any, target: Any, max_error: float) -> NDArray[np.bool_]:
    """Which links hold: each point, taken to the other model, appears where that model's image sees the other, [K]."""
    moved = similarity.inverse() * links.points[1], similarity * links.points[0]
    fits = np.ones(len(links), np.bool_)
    for side, model in enumerate((source, target)):
        for image_id in np.unique(links.images[side]):
            rows = links.images[side] == image_id
            image = model.images[image_id]
            seen = model.cameras[image.camera_id].img_from_cam(image.cam_from_world() * moved[side][rows])
            errors = np.linalg.norm(seen - links.pixels[side][rows], axis=1)
            fits[rows] &= errors <= max_error  # behind the camera it is nan, and no fit
    return fits


def _from_cameras(source: Any, target: Any, min_shared: int) -> Any | None:
    """The similarity that most shared images' cameras agree with: `min_shared` at least, and more than half of them."""
    shared = sorted(set(source.reg_image_ids()) & set(target.reg_image_ids()))
    poses = [[model.images[i].cam_from_world() for i in shared] for model in (source, target)]
    centers = [np.array([model.images[i].projection_center() for i in shared]) for model in (source, target)]
    best, best_count = None, max(min_shared - 1, len(shared) // 2)
    for one, other in combinations(range(len(shared)), 2):
        spans = [np.linalg.norm(side[one] - side[other]) for side in centers]
        if min(spans) <= 0:
            continue
        turn = poses[1][one].rotation.inverse() * poses[0][one].rotation
        scale = spans[1] / spans[0]
        found = pycolmap.Sim3d(scale, turn, centers[1][one] - scale * (turn * centers[0][one]))
        near = np.linalg.norm(found * centers[0] - centers[1], axis=1) <= 0.05 * np.ptp(centers[1], axis=0).max()
        turned = [
            np.degrees((found.transform_camera_world(a).rotation * b.rotation.inverse()).angle()) <= 5
            for a, b in zip(*poses, strict=True)
        ]
        count = int((near & turned).sum())
        if count > best_count:
            best, best_count = found, count
    return best


def _united(lead: Any, other: Any, similarity: Any, cache: Any) -> Any:
    """The lead with the images, points and observations that it lacks, moved by `similarity`; nothing is adjusted."""
    united = pycolmap.Reconstruction(lead)
    load_all(united, cache)
    cameras = {lead.images[i].camera_id for i in lead.reg_image_ids()}
    for image_id in sorted(set(other.reg_image_ids()) - set(lead.reg_image_ids())):
        image = other.images[image_id]
        if image.camera_id not in cameras:
            united.cameras[image.camera_id].params = other.cameras[image.camera_id].params
        frame = united.frames[united.images[image_id].frame_id]
        frame.set_cam_from_world(image.camera_id, similarity.transform_camera_world(image.cam_from_world()))
        united.register_frame(frame.frame_id)
    united.tear_down()
    point_of = {i: observed(united.images[i]) for i in united.reg_image_ids()}
    for _, point in sorted(other.points3D.items()):
        elements = [(element.image_id, element.point2D_idx) for element in point.track.elements]
        homes = Counter(int(point_of[image][index]) for image, index in elements if point_of[image][index] >= 0)
        free = [(image, index) for image, index in elements if point_of[image][index] < 0]
        if homes:
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
