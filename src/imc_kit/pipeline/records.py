"""The usable images of a scene, each with hashes that identify its content."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

from imc_kit.data import images, masks
from imc_kit.data.decoding import MAX_PIXELS
from imc_kit.errors import KitError
from imc_kit.runtime import faults, progress
from imc_kit.types import Mask, Scene


@dataclass(frozen=True)
class ImageRecord:
    """A usable image of a scene: its path, what its header says, and hashes of its content."""

    path: Path
    info: images.ImageInfo
    digest: str
    mask: str = ""
    """Hash of the image's mask file; empty without one."""

    @property
    def key(self) -> str:
        """Identifies everything that the image's features depend on."""
        rotation = f"@{self.info.extra_quarters}" if self.info.extra_quarters else ""
        return "".join([self.digest, rotation, self.mask and f"+{self.mask}"])

    def load(self, long_side: int | None) -> images.Photo:
        """Decode the image, with its longer side at most `long_side` pixels. Raises KitError when that fails."""
        # As large as it was when it was inspected; half as many pixels are accepted in some formats.
        return images.load(self.path, long_side, self.info.extra_quarters, max(MAX_PIXELS, 2 * prod(self.info.size)))

    def allowed(self, photo: images.Photo, name: str, config: masks.MaskConfig) -> Mask | None:
        """Where keypoints are allowed in its photo (`masks.mask`). `inspect` has told of a mask file that is no use."""
        return masks.mask(photo, name, config if self.mask else replace(config, folder=None))


def inspect(
    scene: Scene, config: masks.MaskConfig, executor: Executor, max_pixels: int = MAX_PIXELS
) -> tuple[dict[str, ImageRecord], list[str]]:
    """Read the headers of a scene's images and hash their content.

    Returns the usable images in the scene's order, and a note about each of the others, and about each mask that cannot
    be used. Raises KitError when no image is usable.
    """
    mask_files = [config.folder and masks.find(name, config.folder) for name in scene.images]
    paths = [scene.path(name) for name in scene.images]
    records, notes = dict[str, ImageRecord](), list[str]()
    with progress.bar("reading photos", len(paths), "photo") as bar:
        inspected = executor.map(partial(_inspect_image, max_pixels), paths, mask_files)
        for name, (record, note) in zip(scene.images, inspected, strict=True):
            bar.update()
            records |= {name: record} if record else {}
            notes += [note] if note else []
    if not records:
        raise KitError(f"none of the {len(scene.images)} images can be used: {notes[0]}")
    return records, notes


def gone(records: Mapping[str, ImageRecord]) -> list[str]:
    """A note on the images whose files have vanished: what their EXIF says is no longer known."""
    names = [name for name, record in records.items() if not record.path.exists()]
    few = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return [f"images that vanished during the run ({len(names)}): {few}; {faults.RETRIED}"] if names else []


def stored_mirrored(records: Mapping[str, ImageRecord]) -> list[str]:
    """A note on the images whose files are mirrored: COLMAP's models do not fit these files."""
    count = sum(record.info.mirrored for record in records.values())
    note = f"photos that are stored mirrored ({count}): the models describe them as EXIF orients them"
    return [f"{note}, so other programs need the copies of imc-kit export --format upright"] if count else []


def _inspect_image(max_pixels: int, path: Path, mask: Path | None) -> tuple[ImageRecord | None, str]:
    """The record of an image, if it is usable, and a note."""
    try:
        record = ImageRecord(path, images.probe(path, max_pixels), images.digest(path))
    except KitError as error:
        return None, faults.told(error)
    try:
        return replace(record, mask=masks.digest(mask, record.info) if mask else ""), ""
    except KitError as error:
        return record, f"{faults.told(error)}; its image is not masked"
