"""Add images without poses, queries, to a model, and write the database in which they are localised."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.cameras import CameraConfig, ImageEntry, cameras_of
from imc_kit.colmap.database import best_first, id_pair_counts, image_ids, reading, writing
from imc_kit.types import Float64, Matches


def add_queries(
    model: Any,
    images: Sequence[ImageEntry],
    queries: Sequence[ImageEntry],
    keypoints: Mapping[str, Float64],
    config: CameraConfig,
) -> None:
    """Add images without poses to a `pycolmap.Reconstruction`.

    images: of the model. keypoints: of the queries by name, in COLMAP's coordinates, [N, 2].

    A query that would have shared the intrinsics of images of the model still does. If bundle adjustment gave these
    images different intrinsics, the query gets its own, and their median focal length is a first guess.
    """
    import pycolmap

    keyed, _ = cameras_of([*images, *queries], config)
    camera_of = {image.name: image.camera_id for image in model.images.values()}
    known: dict[Any, set[int]] = {}
    for image, (key, _) in zip(images, keyed, strict=False):
        known.setdefault(key, set()).add(camera_of[image.name])
    for query, (key, camera) in zip(queries, keyed[len(images) :], strict=True):
        alike = {tuple(np.round(model.cameras[number].params, 6)): number for number in sorted(known.get(key, ()))}
        if len(alike) != 1:
            if alike:
                focals = [model.cameras[number].mean_focal_length() for number in alike.values()]
                for place in camera.focal_length_idxs():
                    camera.params[place] = np.median(focals)
                camera.has_prior_focal_length = True
            camera.camera_id = max(model.cameras) + 1
            model.add_camera_with_trivial_rig(camera)
            known[key] = {camera.camera_id}
            alike = {(): camera.camera_id}
        (number,) = alike.values()
        points = [pycolmap.Point2D(xy=xy) for xy in keypoints[query.name]]
        of_camera = {"camera_id": number, "points2D": points}
        model.add_image_with_trivial_frame(pycolmap.Image(name=query.name, image_id=max(model.images) + 1, **of_camera))


def write_with_queries(path: Path, model: Any, verified: Path, matches: Iterable[tuple[str, str, Matches]]) -> None:
    """Write a new database of a `pycolmap.Reconstruction`, whose images without poses are queries, with its ids.

    verified: the database of the model's scene; its verified matches between the model's images are copied.
    matches: of the queries, as for `write_database`.

    Raises `KitError` when a database cannot be read or written.
    """
    with writing(path) as database, reading(verified) as known:
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            database.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            database.write_image(image, use_image_id=True)
            keypoints = np.array([point.xy for point in image.points2D], np.float32).reshape(-1, 2)
            database.write_keypoints(image.image_id, keypoints)
        ids = {image.name: image.image_id for image in model.images.values()}
        new = {number: ids[name] for name, number in image_ids(known).items() if name in ids}
        for pair in id_pair_counts(known, verified=True):
            if new.keys() >= {*pair}:
                geometry = known.read_two_view_geometry(*pair)
                database.write_two_view_geometry(*(new[number] for number in pair), geometry)
        for first, second, rows in matches:
            database.write_matches(ids[first], ids[second], best_first(rows))
