"""The usable images of a scene, each with hashes that identify its content."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from imc_kit.data import images, masks
from imc_kit.errors import KitError
from imc_kit.runtime import faults
from imc_kit.types import Scene


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
        return images.load(self.path, long_side, self.info.extra_quarters)


def inspect(scene: Scene, config: masks.MaskConfig, executor: Executor) -> tuple[dict[str, ImageRecord], list[str]]:
    """Read the headers of a scene's images and hash their content.

    Returns the usable images in the scene's order, and a note about each of the others. Raises KitError when no image
    is usable.
    """
    mask_files = [config.folder and masks.find(name, config.folder) for name in scene.images]
    inspected = executor.map(_inspect_image, [scene.path(name) for name in scene.images], mask_files)
    found = dict(zip(scene.images, inspected, strict=True))
    records = {name: record for name, record in found.items() if isinstance(record, ImageRecord)}
    notes = [note for note in found.values() if isinstance(note, str)]
    if not records:
        raise KitError(f"none of the {len(scene.images)} images can be used: {notes[0]}")
    return records, notes


def gone(records: Mapping[str, ImageRecord]) -> list[str]:
    """A note on the images whose files have vanished: what their EXIF says is no longer known."""
    names = [name for name, record in records.items() if not record.path.exists()]
    few = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return [f"images that vanished during the run ({len(names)}): {few}; {faults.RETRIED}"] if names else []


def _is_passing(path: Path, error: KitError) -> bool:
    """Whether an image cannot be read for another reason than its content."""
    cause = error.__cause__
    return isinstance(cause, MemoryError) or bool(isinstance(cause, OSError) and cause.errno) or not path.exists()


def _inspect_image(path: Path, mask: Path | None) -> ImageRecord | str:
    try:
        return ImageRecord(path, images.probe(path), images.digest(path), images.digest(mask) if mask else "")
    except KitError as error:
        return f"{error}; {faults.RETRIED}" if _is_passing(path, error) else str(error)
