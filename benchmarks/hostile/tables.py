"""Hostile tables: rows to fill, labels, categories, the truth, submissions, thresholds, pair lists and masks."""

from __future__ import annotations

import csv
import io
import json
import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from hostile.cases import CONTROLS, SENTENCE, TEXTS, Place, become_other, damaged, expect, sentence
from hostile.images import encoded, hostile_file
from imc_kit import metric
from imc_kit.data import images, masks, scenes, submission
from imc_kit.errors import KitError
from imc_kit.retrieval.listed import read_pairs

IMAGES = tuple(f"{number}.jpg" for number in range(6))
POSE = ("rotation_matrix", "translation_vector")
HEADERS = {
    "2024": ("image_path", "dataset", "scene", *POSE),
    "2023": ("image_path", "dataset", "scene", *POSE),
    "2025": ("image_id", "dataset", "scene", "image", *POSE),
    "train": ("dataset", "scene", "image_name", *POSE),
}
FOLDERS = {
    "2024": "test/church/images",
    "2023": "test/town/church/images",
    "2025": "test/town",
    "train": "train/church/images",
}
THRESHOLDS = {"2024": {"church": [0.1, 1]}, "2023": {"town/church": [[1, 5], [0.1, 1]]}, "2025": {"church": [0.1, 1]}}
Table = list[list[str]]


@cache
def rows(layout: str, known: bool) -> Table:
    """The table of a competition: with the true poses if `known`, else with placeholders."""
    random = np.random.default_rng(0)
    table = [list(HEADERS[layout])]
    for image in IMAGES:
        path = f"{FOLDERS[layout]}/{image}".removeprefix("test/" if layout == "2023" else "")
        names = {"image_path": path, "dataset": "town", "scene": "church", "image_name": image, "image": image}
        rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
        rotation = rotation * np.sign(np.linalg.det(rotation)) if known else np.eye(3)
        translation = random.normal(size=3) if known else np.zeros(3)
        pose = [";".join(map(repr, part.ravel().tolist())) for part in (rotation, translation)]
        table.append([names.get(column, f"town/{image}") for column in HEADERS[layout][:-2]] + pose)
    return table


def write(path: Path, table: Table, random: Random, hostile: bool = True) -> None:
    """Write a table as CSV, usually with damage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = [list(row) for row in table]
    how = random.randrange(10) if hostile else None
    if how in range(6):
        for _ in range(random.choice((1, 1, 2, 5))):
            _change(changed, random)
    elif how == 6:
        path.write_bytes(b"")
        become_other(path, random)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(changed)
    content = text.getvalue().encode("utf-8", "surrogatepass")
    if how == 7:
        content = random.choice([_quoted_badly, _in_another_encoding, damaged])(content, random)
    elif how in (8, 9):
        content = damaged(content, random)
    path.write_bytes(content)


def _change(table: Table, random: Random) -> None:
    if not table or not table[0]:
        return
    row = table[random.randrange(len(table))]
    column = random.randrange(len(table[0]))
    match random.randrange(12):
        case 0:
            table.append(list(row))
        case 1:
            table.remove(row)
        case 2:
            random.shuffle(table)
        case 3:
            table[:] = [[value for place, value in enumerate(one) if place != column] for one in table]
        case 4:
            table[:] = [[*one, *one[column : column + 1]] for one in table]
        case 5:
            table[0][column % len(table[0])] = random.choice(TEXTS)
        case 6:
            row[:] = row[:column]
        case 7:
            row[column % len(row) : column] = [random.choice(TEXTS) * random.choice((1, 1, 1000))] if row else []
        case _:
            if column < len(row):
                text, cell = random.choice(TEXTS), row[column]
                at = random.randrange(len(cell) + 1)
                row[column] = random.choice((text, cell + text, text + cell, cell[:at] + text + cell[at:]))


def _quoted_badly(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content))
    return (
        content[:at] + random.choice((b'"', b'"\n', b'""', b"\0", b"\r", b"\\", b'"' + b"a" * 200_000)) + content[at:]
    )


def _in_another_encoding(content: bytes, random: Random) -> bytes:
    text = content.decode("utf-8", "replace") + "é\n"
    return text.encode(random.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-7")), "replace")


def rows_case(layout: str, random: Random, at: Place) -> str:
    """Load a competition whose table is hostile, and compose a submission."""
    folder = at.folder / FOLDERS[layout]
    folder.mkdir(parents=True)
    for image in IMAGES:
        (folder / image).touch()
    train = layout == "train"
    table = at.folder / ("train/train_labels.csv" if train else "sample_submission.csv")
    which = random.random() < 0.8
    write(table, rows(layout, train), random, hostile=which)
    categories = [["scene", "categories"], ["church", "symmetric;transparent"]]
    write(folder.parents[1] / "categories.csv", categories, random, hostile=not which)
    task = scenes.load(at.folder, "train" if train else "test")
    for note in task.notes:
        sentence(note, at)
    out = at.folder / "submission.csv"
    submission.write(out, task.columns, submission.compose(task.rows, {}, predict_scene=task.predicts_scene))
    if not {*POSE, "scene", "dataset"}.difference(task.columns):
        problems = submission.check(out, task.columns, task.keys)
        expect(not problems, f"the submission has problems: {problems[:1]}")
    if table.is_file() and which:
        with table.open(encoding="utf-8-sig", newline="") as file:
            asked = sum(bool(row) for row in csv.reader(file)) - 1
        expect(len(task.rows) == asked, f"{len(task.rows)} rows of {asked}")
    return "a valid submission"


def score_case(edition: str, random: Random, at: Place) -> str:
    """Score a submission where one of the three files is hostile."""
    truth, answer, thresholds = (at.folder / name for name in ("truth.csv", "submission.csv", "thresholds.json"))
    which = random.choice(("truth", "answer", "answer", "thresholds"))
    write(truth, rows(edition, True), random, which == "truth")
    write(answer, rows(edition, True), random, which == "answer")
    content = json.dumps(THRESHOLDS[edition])
    if which == "thresholds":
        evil = random.choice(
            ("NaN", "-1", "[]", "{}", "null", '"1"', "1e999", "[[[]]]", "true", '"\\u001b[2J"', "[" * 5000)
        )
        places = [place for place, character in enumerate(content) if character in "[0{1"]
        place = random.choice(places)
        content = random.choice((content[:place] + evil + content[place + 1 :], evil, content[:place]))
    thresholds.write_text(content)
    functions: dict[str, Any] = {"2024": metric.score, "2023": metric.score_2023, "2025": metric.score_2025}
    result = functions[edition](truth, answer, metric.read_thresholds(thresholds))
    mean = result.to_json()["mean"]
    expect(mean is None or 0 <= mean <= 1, f"a score of {mean}")
    strange = [line for line in str(result).split("\n") if CONTROLS.search(line)]
    expect(not strange, f"control characters in the printed score: {strange[:1]}")
    return "a score from 0 to 1"


def pairs_case(random: Random, at: Place) -> str:
    """Read a hostile list of pairs."""
    path = at.folder / "pairs.txt"
    lines = [f"{a} {b}" for a, b in pairwise(IMAGES)]
    for _ in range(random.choice((1, 2, 5))):
        extra = (f"{random.choice(IMAGES)} {random.choice(TEXTS)}", random.choice(TEXTS), f"{lines[0]}\t{lines[0]}")
        lines.insert(random.randrange(len(lines)), random.choice(extra))
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(content, random) if random.random() < 0.4 else content)
    if random.random() < 0.1:
        become_other(path, random)
    found = read_pairs(path, IMAGES)
    expect(all(a in IMAGES and b in IMAGES and a != b for a, b in found), f"pairs {found}")
    return "pairs of known images"


def mask_case(number: int, random: Random, at: Place) -> str:
    """Read a hostile mask."""
    photo_path = at.folder / "photo.jpg"
    photo_path.write_bytes(encoded("JPEG"))
    folder = at.folder / "masks"
    folder.mkdir()
    path = hostile_file(number, random, folder / "mask")
    if os.path.lexists(path):
        path.rename(folder / random.choice(("photo.jpg.png", "photo.png", "photo.jpg")))
    photo = images.load(photo_path)
    allowed = masks.mask(photo, "photo.jpg", masks.MaskConfig(folder))
    expect(allowed is None or (allowed.ndim == 2 and allowed.dtype == np.bool_), "a mask of another kind")
    return "a mask, or none"


def table_case(number: int, random: Random, at: Place) -> str:
    """One hostile table of any kind."""
    layouts, editions = list(HEADERS), list(THRESHOLDS)
    try:
        match number % 10:
            case 0 | 1 | 2 | 3 as which:
                return rows_case(layouts[which], random, at)
            case 4 | 5 | 6 as which:
                return score_case(editions[which - 4], random, at)
            case 7 | 8:
                return pairs_case(random, at)
            case _:
                return mask_case(number // 10, random, at)
    except KitError as error:
        return sentence(str(error), at) or SENTENCE
