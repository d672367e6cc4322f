"""Intrinsics that the user gives: for all photos, for folders or for single photos.

A line names a camera: `[WHICH] MODEL [WIDTH HEIGHT] PARAMS`, with COLMAP's camera model and its numbers in pixels,
where the corner of the top-left pixel is (0, 0). WHICH is an image, or a folder that ends with `/`; a line without it
holds for all images. An image takes the line that names it, or else that of its innermost folder. hloc's lists of
images with intrinsics have such lines. Those of COLMAP's `cameras.txt` begin with a number, which `images.txt` gives to
images.

The numbers describe photos as they are stored (`ImageInfo.stored_quarters`), as the files of models do.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any

from imc_kit.colmap.cameras import FOCAL_RANGE, camera_named
from imc_kit.colmap.model_files import read_cameras
from imc_kit.colmap.rotation import rotated_camera
from imc_kit.data.images import ImageInfo
from imc_kit.data.listing import exists, few, is_file, is_folder
from imc_kit.data.scenes import SPLITS
from imc_kit.data.text import content_lines, read_text
from imc_kit.errors import KitError, hint
from imc_kit.types import Scene

_FORM = "[IMAGE or FOLDER/] MODEL [WIDTH HEIGHT] PARAMS"
_LINE = re.compile(r"(?:(?P<which>\S.*?)\s+)?(?P<model>[A-Za-z]\w*)(?P<numbers>([\s,]+[-+]?[\d.][-+\d.eE]*)+)[\s,]*")
_EXAMPLE = "'OPENCV_FISHEYE 500,500,320,240,0,0,0,0'"


@dataclass(frozen=True)
class KnownCamera:
    """The intrinsics of a camera.

    which: an image, or a folder that ends with `/`, in its scene or after the scene's name; "" for all images.
    params: the numbers of the camera model. size: (width, height) of the photos that they describe; None if that is the
        size of the images.
    """

    which: str
    model: str
    params: tuple[float, ...]
    size: tuple[int, int] | None = None

    def upright(self, info: ImageInfo) -> Any:
        """The `pycolmap.Camera` of an upright image, whose stored photo may be a reduced copy.

        Raises `KitError` if the photo has another shape, or if COLMAP would discard images with such a camera.
        """
        stored = _stored_size(info)
        width, height = self.size or stored
        camera = camera_named(self.model, 1.0, (width, height))
        camera.params, camera.has_prior_focal_length = list(self.params), True
        if abs(stored[0] * height - stored[1] * width) > max(width, height):  # by more than a rounded pixel
            raise KitError(f"they are for {width} × {height} pixels, and the image is stored with {_by(stored)}")
        if (width, height) != stored:
            camera.rescale(*stored)
        if camera.has_bogus_params(*FOCAL_RANGE, inf):
            low, high = FOCAL_RANGE
            wanted = f"the focal length must be {low:g} to {high:g} longer sides, and the centre must be in the image"
            raise KitError(f"{camera.params_info} are {camera.params_to_string()} for {_by(stored)} pixels: {wanted}")
        return rotated_camera(camera, info.stored_quarters)


def read(known: str) -> list[KnownCamera]:
    """The cameras of `--cameras.known`: a line, a file of lines, COLMAP's `cameras.txt` or the folder of its model.

    Raises `KitError` for what is none of these, for an unknown camera model, suggesting the nearest one, and for a
    wrong number of parameters.
    """
    path = Path(known)
    if not exists(path):
        if not _LINE.fullmatch(known.strip()):
            raise KitError(f"cameras.known is {known!r}: there is no such file, and it is no camera such as {_EXAMPLE}")
        return [_parsed(known, "cameras.known")]
    if is_folder(path):
        return _of_model(path, ".bin" if is_file(path / "images.bin") else ".txt")
    if path.name in ("cameras.txt", "cameras.bin") and is_file(path.with_name(f"images{path.suffix}")):
        return _of_model(path.parent, path.suffix)
    cameras = _read_lines(path)
    if not cameras:
        raise KitError(f"{path} names no camera: each line must be {_FORM}")
    numbered = [camera.which for camera in cameras if camera.which.isdecimal()]
    if numbered and len(cameras) > 1:
        raise KitError(f"{path} has {len(cameras)} cameras, and no images.txt beside it says which images they took")
    return [replace(cameras[0], which="")] if numbered else cameras


def check(known: str, scenes: Sequence[Scene], root: Path) -> None:
    """Raise `KitError` as `read` does, for an image or folder that has two cameras, and for one that does not exist.

    root: of the input. Images there that are not to be solved may have cameras.
    """
    if not known:
        return
    named = Counter(camera.which for camera in read(known))
    if twice := sorted(name or "all images" for name, count in named.items() if count > 1):
        raise KitError(f"{known} has two cameras for {few(twice)}")
    possible = {place for scene in scenes for image in scene.images for place in _places(scene.name, image)}
    roots = [root, *(root / split for split in SPLITS), *(scene.root for scene in scenes)]
    if unfit := [name for name in named if name not in possible and not _lies_in(roots, name)]:
        raise KitError(f"{known} has cameras that fit no image: {few(unfit)}{hint(unfit[0], possible)}")


def of_scene(known: str, scene: Scene, infos: Mapping[str, ImageInfo]) -> tuple[dict[str, KnownCamera], list[str]]:
    """The known camera of each image that has one, with the size of its photo, and notes on the others.

    Raises `KitError` for an image that its camera does not fit.
    """
    if not known:
        return {}, []
    cameras = {camera.which: camera for camera in read(known)}
    found = {}
    sizes: defaultdict[KnownCamera, dict[tuple[int, int], str]] = defaultdict(dict)
    scaled = []
    for name, info in infos.items():
        camera = next((cameras[place] for place in _places(scene.name, name) if place in cameras), None)
        if camera is None:
            continue
        stored = _stored_size(info)
        sizes[camera].setdefault(stored, name)
        if not camera.size and len(sizes[camera]) > 1:
            each = few([f"{image} has {_by(size)}" for size, image in sizes[camera].items()])
            raise KitError(f"the known camera must tell the size of its photos, as in {_FORM}: {each}")
        camera = replace(camera, size=camera.size or stored)
        try:
            camera.upright(info)
        except KitError as error:
            raise KitError(f"the known intrinsics do not fit {name} of {scene.name}: {error}") from None
        scaled += [f"{name} ({_by(camera.size or stored)} to {_by(stored)})"] if camera.size != stored else []
        found[name] = camera
    notes = [f"known intrinsics are scaled to their photos ({len(scaled)}): {few(scaled)}"] if scaled else []
    if without := [name for name in infos if name not in found]:
        notes.append(f"images without known intrinsics ({len(without)}), which are estimated: {few(without)}")
    return found, notes


def _places(scene: str, image: str) -> Iterator[str]:
    """What may name an image, from the most to the least specific."""
    for path in (image, *(f"{folder}/" for folder in PurePosixPath(image).parents if folder.name)):
        yield path
        yield f"{scene}/{path}"
    yield f"{scene}/"
    yield ""


def _lies_in(roots: Sequence[Path], name: str) -> bool:
    """Whether there is such a file or folder, perhaps in a folder `images` on the way."""
    parts = PurePosixPath(name).parts
    paths = (name, *("/".join([*parts[:depth], "images", *parts[depth:]]) for depth in range(1, len(parts))))
    return any(exists(root / path) for root in roots for path in paths)


def _stored_size(info: ImageInfo) -> tuple[int, int]:
    return info.size[::-1] if info.stored_quarters % 2 else info.size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _read_lines(path: Path) -> list[KnownCamera]:
    return [_parsed(line, f"line {number} of {path}") for number, line in content_lines(path)]


def _parsed(line: str, where: str) -> KnownCamera:
    """The camera of a line. where: for messages."""
    parts = _LINE.fullmatch(line.strip())
    if parts is None:
        raise KitError(f"{where} is {line.strip()!r}: it must be {_FORM}, for example {_EXAMPLE}")
    try:
        numbers = [float(number) for number in re.split(r"[\s,]+", parts["numbers"].strip(" \t,"))]
    except ValueError:
        raise KitError(f"{where} has something that is no number: {parts['numbers'].strip()!r}") from None
    model = camera_named(parts["model"], 1.0, (1, 1))
    count, size = len(model.params), None
    if len(numbers) == count + 2 and all(number.is_integer() and number > 0 for number in numbers[:2]):
        size, numbers = (int(numbers[0]), int(numbers[1])), numbers[2:]
    if len(numbers) != count:
        wanted = f"{count} parameters ({model.params_info}), and before them perhaps the width and the height"
        raise KitError(f"{where} has {len(numbers)} numbers, but {parts['model']} has {wanted}")
    return KnownCamera(parts["which"] or "", parts["model"], tuple(numbers), size)


def _of_model(folder: Path, suffix: str) -> list[KnownCamera]:
    """The cameras of the images of a COLMAP model, in its text or binary files."""
    if not (is_file(folder / f"images{suffix}") and is_file(folder / f"cameras{suffix}")):
        raise KitError(f"{folder} has no COLMAP model: it must have cameras.txt and images.txt, or both as .bin")
    if suffix == ".bin":
        return [
            KnownCamera(name, camera.model.name, tuple(map(float, camera.params)), (camera.width, camera.height))
            for name, camera in read_cameras(folder).items()
        ]
    cameras = {camera.which: camera for camera in _read_lines(folder / "cameras.txt")}
    found = []
    lines = [line for line in read_text(folder / "images.txt").splitlines() if not line.startswith("#")]
    for line in lines[::2]:  # after each image comes a line, perhaps an empty one, with its keypoints
        fields = line.split(maxsplit=9)  # id, quaternion, translation, camera, name
        if len(fields) < 10 or fields[8] not in cameras:
            raise KitError(f"{folder / 'images.txt'} has a line that names no image with a camera: {line[:80]!r}")
        found.append(replace(cameras[fields[8]], which=fields[9].strip()))
    return found
