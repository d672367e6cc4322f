"""Damaged folders of an earlier run: the same command gives a clean run's result, and keeps what is good."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from hostile.cases import Failed, Place, damaged, digests, expect
from hostile.runs import NAME, Command, copied, solve_clean

SCENE = f"scenes/{NAME}"
TARGETS = {
    "features": "store/features/*/*.h5",
    "matches": "store/matches/*/*.h5",
    "database": f"{SCENE}/database-*.db",
    "result.json": f"{SCENE}/result.json",
    "images.bin": f"{SCENE}/models/0/images.bin",
    "points3D.bin": f"{SCENE}/models/0/points3D.bin",
    "cameras.bin": f"{SCENE}/models/0/cameras.bin",
    "frames.bin": f"{SCENE}/models/0/frames.bin",
    "run.json": "run.json",
    "submission.csv": "submission.csv",
    "log": f"{SCENE}/colmap*.log",
}
"""What is damaged, and where it is."""


def _flipped(path: Path, random: Random, count: int = 20) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(count):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _zero_tail(path: Path, random: Random) -> None:
    content = path.read_bytes()
    half = random.randrange(len(content) // 4, len(content))
    path.write_bytes(content[:half] + bytes(len(content) - half))


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path, Random], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "cut in half": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its last byte": lambda path, _: path.write_bytes(path.read_bytes()[:-1]),
    "zeroed tail": _zero_tail,
    "one flipped bit": lambda path, random: _flipped(path, random, 1),
    "flipped bits": _flipped,
    "random bytes": lambda path, random: path.write_bytes(random.randbytes(5000)),
    "damaged somehow": lambda path, random: path.write_bytes(damaged(path.read_bytes(), random)),
    "missing": lambda path, _: path.unlink(),
    "a folder": lambda path, _: _replaced(path, Path.mkdir),
    "a FIFO": lambda path, _: _replaced(path, os.mkfifo),
    "a link to a device": lambda path, _: _replaced(path, lambda path: path.symlink_to("/dev/zero")),
    "a link to nowhere": lambda path, _: _replaced(path, lambda path: path.symlink_to("/nonexistent/file")),
}


# ---- damage to what the files mean ----


def _in_store(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    kind, column = name.split("/")

    def apply(out: Path) -> None:
        with h5py.File(sorted(out.glob(TARGETS[kind]))[0], "r+") as file:
            data = file[f"columns/{column}"] if f"columns/{column}" in file else file[column]
            values, where = change(data[:]), data.name
            del file[where]
            if values is not None:
                file[where] = values

    return apply


def _set(values: Any, value: Any) -> Any:
    values[0] = value
    return values


def _in_database(*statements: str) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        (path,) = out.glob(TARGETS["database"])
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return apply


def _in_result(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        path = out / TARGETS["result.json"]
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(changed if isinstance(changed, str) else json.dumps(changed or content))

    return apply


def _in_placements(**values: Any) -> Callable[[Path], None]:
    return _in_result(lambda content: [entry.update(values) for entry in content["placements"].values()] and content)


def _link_to_precious(name: str) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        (out / "elsewhere").mkdir()
        (out / "elsewhere/precious").write_text("x")
        shutil.rmtree(out / SCENE / name, ignore_errors=True)
        (out / SCENE / name).symlink_to(out / "elsewhere")

    return apply


def _file_for_folder(name: str) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        shutil.rmtree(out / name)
        (out / name).write_text("x")

    return apply


MEANINGS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "descriptors of nan": ("store", _in_store("features/descriptors", lambda values: _set(values, np.nan))),
    "a keypoint outside": ("store", _in_store("features/keypoints", lambda values: _set(values, 1e9))),
    "keypoints of another type": ("store", _in_store("features/keypoints", lambda values: values.astype(np.float64))),
    "no keypoints": ("store", _in_store("features/keypoints", lambda values: None)),
    "huge offsets": ("store", _in_store("features/offsets", lambda values: np.array([0, 2**62], np.int64))),
    "negative offsets": ("store", _in_store("features/offsets", lambda values: np.array([-5, -1], np.int64))),
    "numbers as keys": ("store", _in_store("features/keys", lambda values: np.arange(len(values)))),
    "headers without a size": ("store", _in_store("features/headers", lambda values: np.zeros((1, 0), np.int32))),
    "a match outside": ("store", _in_store("matches/indices", lambda values: _set(values, [10**6, 3]))),
    "a match at −1": ("store", _in_store("matches/indices", lambda values: _set(values, [-1, 3]))),
    "fewer scores than matches": ("store", _in_store("matches/scores", lambda values: values[1:])),
    "the store is a file": ("store", _file_for_folder("store")),
    "no keypoints in the database": ("database", _in_database("delete from keypoints")),
    "another schema": ("database", _in_database("drop table images", "create table images(x)")),
    "inliers that do not exist": ("database", _in_database("update two_view_geometries set rows = 1000000000")),
    "no pairs in the database": ("database", _in_database("delete from two_view_geometries", "delete from matches")),
    "a deeply nested result": ("", _in_result(lambda content: "[" * 20_000)),
    "a result that is a text": ("", _in_result(lambda content: '"x"')),
    "no placements": ("", _in_result(lambda content: {**content, "placements": {}})),
    "placements in a list": ("", _in_result(lambda content: {**content, "placements": []})),
    "no counts": ("", _in_result(lambda content: {**content, "counts": None})),
    "counts that are texts": ("", _in_result(lambda content: {**content, "counts": {"models": "3", "images": "3"}})),
    "poses of nan": ("", _in_placements(translation=[float("nan")] * 3)),
    "moved poses": ("", _in_placements(translation=[1, 2, 3])),
    "models that are texts": ("", _in_placements(model="x")),
    "rotations that are none": ("", _in_placements(rotation=[[1, 0, 0], [0, 2, 0], [0, 0, 1]])),
    "models are a link": ("result", _link_to_precious("models")),
    "the partial folder is a link": ("result", _link_to_precious("partial")),
    "scenes is a file": ("", _file_for_folder("scenes")),
}  # fmt: skip
"""Name, what must be forgotten so that the damage is met, and the damage."""


def _forget(out: Path, hides: str) -> None:
    """Delete what would be used instead of the damaged files: the result, and for the store the database, too."""
    if hides:
        (out / SCENE / "result.json").unlink()
    if hides == "store":
        shutil.rmtree(out / SCENE / "models")
        for path in out.glob(TARGETS["database"]):
            path.unlink()


GRID = [(target, damage) for damage in DAMAGES for target in TARGETS]
FOREIGN = ("notes.txt", f"{SCENE}/mine.txt", "store/features/read me.txt")


def damage_case(number: int, random: Random, at: Place) -> str:
    """Damage one file of a finished run, run the same command, and compare."""
    out = copied(at.clean, at.folder / "out")
    for name in FOREIGN:
        (out / name).write_text("someone else's")
    meanings = list(MEANINGS.items())
    if number < len(meanings):
        what, (hides, apply) = meanings[number]
        _forget(out, hides)
        before = digests(out)
        apply(out)
    else:  # every damage in turn, each time to other files
        number -= len(meanings)
        target, damage = GRID[(number * 7 + number // len(GRID)) % len(GRID)]
        what = f"{target} {damage}"
        _forget(out, {"features": "store", "matches": "store", "database": "result"}.get(target, ""))
        before = digests(out)
        DAMAGES[damage](random.choice(sorted(out.glob(TARGETS[target]))), random)
    good = {name: digest for name, digest in digests(out).items() if before.get(name) == digest}
    scene = digests(at.scene)
    try:
        solve_clean(Command(at.scene, out), at.clean)
        expect(digests(at.scene) == scene, "the input was changed")
        now = digests(out)
        lost = [name for name, digest in good.items() if is_kept(name) and now.get(name) != digest]
        lost += [name for name in good if "/database-" in name and name not in now]  # COLMAP writes when it opens one
        expect(not lost, f"good files were deleted or changed: {lost[:3]}")
        gone = (out / "elsewhere").exists() and not (out / "elsewhere/precious").exists()
        expect(not gone, "a file behind a link was deleted")
    except Failed as failure:
        raise Failed(f"{what}: {failure}") from None
    return "a clean run's result"


def is_kept(name: str) -> bool:
    """Whether the kit must not touch a good file: what it caches, and what it did not write."""
    return name in FOREIGN or name.startswith("store/")
