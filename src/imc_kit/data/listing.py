"""Find the photos under a folder, and account for whatever else there may be a photo."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations, islice
from pathlib import Path, PurePosixPath

from imc_kit.errors import KitError, printable

_OPTIONAL = {"PIL._avif": ".avif", "pillow_heif": ".heic .heif .hif"}
"""Suffixes that are read if a module is installed: Pillow has AVIF since 11.3, the extra `heif` has HEIC."""
_READABLE = " ".join(suffixes for module, suffixes in _OPTIONAL.items() if find_spec(module))
IMAGE_SUFFIXES = frozenset(f".jpg .jpeg .jpe .jif .jfif .mpo .png .tif .tiff .webp .bmp {_READABLE}".split())
"""Suffixes of image files, in lower case. An MPO is a JPEG with further pictures; the first one is read."""
_OTHERS = {
    "HEIC files, without pillow-heif (pip install 'imc-kit[heif]'),": ".heic .heif .hif",
    "AVIF files, with a Pillow older than 11.3,": ".avif",
    "raw files": ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .fff .iiq .rwl .gpr",
    "videos (imc-kit frames takes photos from them)": ".mp4 .mov .m4v .avi .mkv .webm .mts .m2ts .3gp "
    ".wmv .mpg .mpeg .insv .360 .lrv .thm",
    "other images": ".gif .jp2 .j2k .jxl .psd .exr .hdr .svg .ppm .pgm .tga .insp .dds .xcf .eps .avifs",
}
_KINDS = {suffix: kind for kind, suffixes in _OTHERS.items() for suffix in suffixes.split()}
"""Kinds of photos and videos that are not read, by suffix."""
_THUMBNAILS = {
    "@eadir", "@__thumb", "__macosx", "thumb", "thumbs", "thumbnail", "thumbnails", "zbthumbnails", "captureone",
    "#recycle", "@recycle", "$recycle.bin", "#snapshot", "lost+found",
}  # fmt: skip
"""Folders of thumbnails and deleted files, in lower case: of Synology, QNAP, macOS, Windows and photo managers."""
_PREVIEWS = ".lrdata"
"""The suffix of Lightroom's folders of previews."""
_RESULTS = ({"submission.csv", "run.json"}, {"submission.csv", "store"})
"""A folder that holds these has the results of a run."""
_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*"
"""How JPEG, PNG and TIFF files begin."""
_GROUPS = 6
"""The same photos are looked for in at most this many groups of as many folders: it decodes one photo in each."""
_ALIKE = 8.0
"""Mean difference of copies at 32 pixels, in grey levels: below 3 in herzjesu_P8, whose photos differ by 20."""

# Path's own methods raise errors for names that are too long and folders that may not be searched.
exists, is_file, is_folder = os.path.exists, os.path.isfile, os.path.isdir


@dataclass
class Listing:
    """What lies under a folder. All names are relative POSIX paths; `images` is sorted."""

    folder: Path
    images: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """What may be photos but is not in `images`, by the reason."""

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def notes(self) -> list[str]:
        """A sentence for each reason, with a count."""
        notes = [
            f"{reason} are left out ({len(names)}): {few(sorted(names))}" for reason, names in self.left_out.items()
        ]
        if same := self._same():
            notes.append(f"the same photos lie in several places, and all of them count: {same}")
        return notes

    def elsewhere(self) -> list[str]:
        """The notes on those folders directly under this one that hold no image."""
        seen = {_top(name) for name in self.images}
        rest = {reason: [name for name in names if _top(name) not in seen] for reason, names in self.left_out.items()}
        return Listing(self.folder, [], {reason: names for reason, names in rest.items() if names}).notes()

    def _same(self) -> str:
        """The places, as in `images, images_2`, that hold the same photos, perhaps at several sizes."""
        of_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.images:
            of_stem[PurePosixPath(name).stem].append(name)
        groups = {tuple(map(_place, names)): names[:_GROUPS] for names in of_stem.values() if len(names) > 1}
        found = []
        for names in islice(groups.values(), _GROUPS):
            pairs = [pair for pair in combinations(names, 2) if _are_alike(*(self.folder / name for name in pair))]
            alike = sorted({name for pair in pairs for name in pair})
            found += [", ".join(dict.fromkeys(map(_place, alike)))] if alike else []
        return few(found)


def _are_alike(first: Path, second: Path) -> bool:
    """Whether two images show the same at 32 pixels. False if one cannot be read."""
    from imc_kit.data import images  # with OpenCV, which loads when first used

    try:
        one, other = (images.load(path, 32).pixels.astype(int) for path in (first, second))
    except KitError:
        return False
    return one.shape == other.shape and bool(abs(one - other).mean() < _ALIKE)


def _top(name: str) -> str:
    return name.partition("/")[0]


def _place(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent) if path.parent.name else f"*{path.suffix}"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and the number of the others."""
    text = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return printable(text)


def find_images(folder: Path, out: Path | str | None = None) -> Listing:
    """List all images under `folder`, except those under `out` and under other results of the kit.

    Hidden files and folders, thumbnails and files without an image suffix are left out. Links are followed, each folder
    once.
    """
    found = Listing(folder)
    visited = {_identity(Path(out))} if out is not None and is_folder(out) else set()
    pending = [folder]

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            found.leave_out("folders that cannot be read", str(error.filename))

    while pending:
        for current, folders, files in os.walk(pending.pop(0), onerror=unreadable):
            here = Path(current)
            inside = here.relative_to(folder)
            of_a_run = here != folder and any(names <= {*folders, *files} for names in _RESULTS)
            if of_a_run:
                found.leave_out("folders with results of the kit", inside.as_posix())
            if of_a_run or (identity := _identity(here)) in visited:
                folders.clear()
                continue
            visited.add(identity)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            # Linked folders come last: an image is listed under its real path, and a link upwards ends.
            pending += [here / name for name in folders if (here / name).is_symlink()]
            thumbnails = any(name.lower() in _THUMBNAILS or name.endswith(_PREVIEWS) for name in inside.parts)
            for name in files:
                relative = (inside / name).as_posix()
                reason = None if name.startswith(".") else _reason(here / name, thumbnails)
                if reason == "" and fits_table(relative):
                    found.images.append(relative)
                elif reason is not None:
                    found.leave_out(reason or "images whose names do not fit a table", relative)
    found.images.sort()
    return found


def _reason(path: Path, thumbnails: bool) -> str | None:
    """Why a file is not among the images; "" if it is, None if it is no image at all."""
    suffix = path.suffix.lower()
    if not exists(path):
        return "links that lead nowhere"
    if suffix in IMAGE_SUFFIXES:
        if not is_file(path):
            return "pipes and devices named as images"
        return "thumbnails and deleted images" if thumbnails else ""
    if suffix in _KINDS:
        return _KINDS[suffix]
    return "images without the suffix of one" if _begins_as_image(path) else None


def _begins_as_image(path: Path) -> bool:
    if not is_file(path):  # opening a pipe waits for ever
        return False
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_MAGIC)
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def fits_table(name: str) -> bool:
    """Whether a name can be in a table: it is valid Unicode without control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
