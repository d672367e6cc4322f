"""The images of a scene that can be used, each with what names its content."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from imc_kit.data import images, masks
from imc_kit.data.images import ImageInfo, Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.errors import KitError
from imc_kit.types import Scene


@dataclass(frozen=True)
class ImageRecord:
    """A usable image of a scene: its path, what its header says, and hashes of its content."""

    path: Path
    info: ImageInfo
    digest: str
    mask: str = ""
    """Hash of the image's mask file; empty without one."""

    @property
    def key(self) -> str:
        """Names everything about the image that its features depend on."""
        rotation = f"@{self.info.extra_quarters}" if self.info.extra_quarters else ""
        return "".join([self.digest, rotation, self.mask and f"+{self.mask}"])

    @property
    def key_as_exif_says(self) -> str:
        """The key of the same image without the rotation that was estimated from matches."""
        return replace(self, info=replace(self.info, extra_quarters=0)).key

    def load(self, long_side: int | None) -> Photo:
        """Decode the image, its longer side at most `long_side` pixels. Raises KitError when that fails."""
        return images.load(self.path, long_side, self.info.extra_quarters)


def inspect(scene: Scene, config: MaskConfig, executor: Executor) -> tuple[dict[str, ImageRecord], list[str]]:
    """Read the headers of a scene's images and hash their content.

    Returns the usable images in the scene's order, and a note about each of the others. Raises KitError when no image
    is usable.
    """
    mask_files: Iterable[Path | None] = [
        masks.find(name, config.folder) if config.folder else None for name in scene.images
    ]
    found = executor.map(_inspect_image, [scene.path(name) for name in scene.images], mask_files)
    records, notes = {}, []
    for name, record in zip(scene.images, found, strict=True):
        if isinstance(record, ImageRecord):
            records[name] = record
        else:
            notes.append(record)
    if not records:
        raise KitError(f"none of the {len(scene.images)} images can be used: {notes[0]}")
    return records, notes


def _inspect_image(path: Path, mask: Path | None) -> ImageRecord | str:
    try:
        return ImageRecord(path, images.probe(path), images.digest(path), images.digest(mask) if mask else "")
    except KitError as error:
        return str(error)
