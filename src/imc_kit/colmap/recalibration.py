"""Intrinsics from the matches alone, for a scene that those from EXIF and equal image sizes do not fit.

A focal length in EXIF may be wrong, and photos of one size may have been zoomed or cropped.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import writing

_APART = 1.18
"""Images are in different groups if, sorted by focal length, the next one's is longer by this factor. On some scenes
the view graph's focal lengths are off by 10 %; a smaller factor splits those of one camera."""
_TIME_LIMIT = 300.0
"""Seconds. Calibration takes a tenth of a second for 20 images."""
_DEFAULT = 1.2
"""COLMAP's default focal length, in longer sides of the image: where calibration starts."""


def recalibrated(database: Path, at: Workplace, split: bool, time_limit: float = _TIME_LIMIT) -> Path | None:
    """A copy of a verified database with focal lengths from its matches, in a folder in that of `at`; None if it had no
    focal lengths from EXIF and no camera is split. Cameras that the user knows stay.

    split: whether images that share intrinsics are questioned.

    Raises `ColmapError` when calibration fails.
    """
    import pycolmap

    work = replace(at, folder=at.folder / "recalibrated")
    with pycolmap.Database.open(database) as opened:
        unknown = [camera for camera in opened.read_all_cameras() if camera.camera_id not in at.known.ids]
    if not unknown or not (split or any(camera.has_prior_focal_length for camera in unknown)):
        return None  # nothing to question
    limit, known = min(_TIME_LIMIT, time_limit), at.known.ids
    work.run("recalibrate", "the calibration of the cameras", limit, database=database, split=split, known=known)
    made = work.folder / "database.db"
    return made if made.is_file() else None


def recalibrate_job(database: str, output: str, split: bool, known: Collection[int], threads: int, seed: int) -> None:
    """The work of `recalibrated`, in COLMAP's child process.

    The focal length of each image follows from the fundamental matrices of its pairs (Sweeney et al., ICCV 2015, as
    COLMAP implements it). That of a camera is the median of its images'.
    """
    import pycolmap

    scratch = Path(output) / "scratch.db"
    with pycolmap.Database.open(database) as opened:
        before: dict[int, Any] = {image.image_id: image.camera_id for image in opened.read_all_images()}
        cameras = opened.read_all_cameras()
        from_exif = any(camera.has_prior_focal_length for camera in cameras if camera.camera_id not in known)
    _with_cameras(database, scratch, {image: image for image in before}, {}, known)
    options = pycolmap.ViewGraphCalibrationOptions(random_seed=seed, reestimate_relative_pose=False)
    pycolmap.calibrate_view_graph(scratch, options)
    with pycolmap.Database.open(scratch) as opened:
        focals = {i.image_id: opened.read_camera(i.camera_id).mean_focal_length() for i in opened.read_all_images()}
    after = dict(before)
    for camera in set(before.values()).difference(known) if split else ():
        members = sorted((image for image in before if before[image] == camera), key=focals.__getitem__)
        steps = np.diff(np.log([focals[image] for image in members])) > np.log(_APART)
        after |= {image: (camera, group) for image, group in zip(members, [0, *np.cumsum(steps)], strict=True)}
    if from_exif or len(set(after.values())) > len(set(before.values())):
        _with_cameras(database, Path(output) / "database.db", after, focals, known)


def _with_cameras(
    database: str, path: Path, keys: Mapping[int, Any], focals: Mapping[int, float], known: Collection[int]
) -> None:
    """Copy a database to `path`. Images with equal keys share a camera; it has the median of their focal lengths.

    keys, focals: by image id; without focal lengths, cameras get COLMAP's default. known: ids of cameras that stay.
    """
    import pycolmap

    shutil.copyfile(database, path)
    made: dict[Any, tuple[Any, int]] = {}
    with writing(path) as opened:
        for image in opened.read_all_images():
            if image.camera_id in known:
                continue
            key, rig_id = keys[image.image_id], opened.read_frame(image.frame_id).rig_id
            if key not in made:
                camera = opened.read_camera(image.camera_id)
                lengths = [focal for other, focal in focals.items() if keys[other] == key]
                length = float(np.median(lengths)) if lengths else _DEFAULT * max(camera.width, camera.height)
                name, size = camera.model.name, (camera.width, camera.height)
                camera = pycolmap.Camera.create_from_model_name(image.camera_id, name, length, *size)
                if any(camera.camera_id == other.camera_id for other, _ in made.values()):
                    camera.camera_id = opened.write_camera(camera)
                    rig = pycolmap.Rig()
                    rig.add_ref_sensor(camera.sensor_id)
                    rig_id = opened.write_rig(rig)
                opened.update_camera(camera)
                made[key] = camera, rig_id
            image.camera_id = made[key][0].camera_id
            frame = pycolmap.Frame(frame_id=image.frame_id)
            frame.rig_id = made[key][1]
            frame.add_data_id(image.data_id)
            opened.update_frame(frame)
            opened.update_image(image)
