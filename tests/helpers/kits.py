"""A small kit with one harmless wheel, which tests damage."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

from imc_kit.kaggle import install

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def write_wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """A wheel with one module that holds its version."""
    folder.mkdir(parents=True, exist_ok=True)
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n",
        f"{about}/licenses/LICENSE": "Permission is hereby granted.\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        file: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for file, text in files.items()
    }
    record = "".join(f"{file},sha256={digest},{len(files[file])}\n" for file, digest in digests.items())
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{about}/RECORD": record + f"{about}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(file), text)  # dated 1980, so that the bytes are always the same
    return path


def write_kit(folder: Path, pythons: tuple[str, ...] = (OWN,), needs: dict[str, dict[str, str]] | None = None) -> Path:
    """A complete kit in `folder`: the wheel of `kit-toy`, one weight file, the installer."""
    wheel = write_wheel(folder / "wheels", "kit-toy")
    (folder / "weights").mkdir()
    (folder / "weights" / "toy.pth").write_bytes(b"not really a network " * 20)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "imc_kit.lock").write_text(f"kit-toy==1.0 --hash=sha256:{digest}\n")
    shutil.copyfile(install.__file__, folder / "install.py")
    (folder / "dataset-metadata.json").write_text('{"id": "someone/imc-kit"}')
    seal(folder, pythons, needs or {})
    return folder


def seal(kit: Path, pythons: tuple[str, ...] = (OWN,), needs: dict[str, dict[str, str]] | None = None) -> None:
    """Write the manifest for the current content of the kit."""
    files = [
        {
            "name": path.relative_to(kit).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(kit.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "dataset-metadata.json")
    ]
    content = {
        "format": install.FORMAT,
        "version": "9.9",
        "commit": "0123456789ab",
        "preset": "sift",
        "pythons": list(pythons),
        "needs": needs or {},
        "images": {OWN: ["numpy==2.0.2"]},
        "files": files,
    }
    (kit / "manifest.json").write_text(json.dumps(content))


def write_competition(folder: Path) -> Path:
    """A competition in the layout of 2024, with two images that are never read."""
    images = folder / "test" / "tower" / "images"
    images.mkdir(parents=True)
    rows = ["image_path,dataset,scene,rotation_matrix,translation_vector"]
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(b"?")
        rows.append(f"test/tower/images/{name},tower,tower,1;0;0;0;1;0;0;0;1,0;0;0")
    (folder / "sample_submission.csv").write_text("\n".join(rows) + "\n")
    return folder


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text
