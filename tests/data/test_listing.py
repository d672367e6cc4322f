"""What is a photo, and what is left out with a note."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from imc_kit.data.listing import find_images
from imc_kit.data.scenes import load
from imc_kit.errors import KitError


def photo(path: Path, size: tuple[int, int] = (40, 30), colour: str = "olive") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "jpeg")
    return path


def test_what_may_be_photos_is_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.JPE", "b.jif", "sub/c.MPO"):
        photo(tmp_path / name)
    for name in ("d.DNG", "e.cr3", "f.mov", "g.jxl", "notes.txt", ".h.nef"):
        (tmp_path / name).write_bytes(b"nothing")
    photo(tmp_path / "no suffix")
    photo(tmp_path / "a.jpg_original")
    for name in ("#recycle/r.jpg", "sub/Thumbnails/t.jpg", "roll Previews.lrdata/p.jpg"):
        photo(tmp_path / name)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    found = find_images(tmp_path)
    assert found.images == ["a.JPE", "b.jif", "sub/c.MPO"]
    assert {reason.split()[0]: sorted(names) for reason, names in found.left_out.items()} == {
        "raw": ["d.DNG", "e.cr3"],
        "videos": ["f.mov"],
        "images": ["a.jpg_original", "no suffix"],
        "other": ["g.jxl"],
        "thumbnails": ["#recycle/r.jpg", "roll Previews.lrdata/p.jpg", "sub/Thumbnails/t.jpg"],
        "links": ["gone"],
        "pipes": ["pipe.png"],
    }
    assert "raw files are left out (2): d.DNG, e.cr3" in found.notes()


def test_a_folder_of_other_kinds_only_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "test/church/images/a.jpg")
    (tmp_path / "test/pond/images").mkdir(parents=True)
    (tmp_path / "test/pond/images/b.nef").touch()
    assert "raw files are left out (1): pond/images/b.nef" in load(tmp_path).notes
    with pytest.raises(KitError, match=r"no images .* raw files are left out \(1\): images/b\.nef"):
        load(tmp_path / "test/pond")


def test_results_are_no_input(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "out/scenes/x/masks/a.jpg.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert load(tmp_path, out=tmp_path / "link").scenes[0].images == ("a.jpg",)
    photo(tmp_path / "earlier/masks/a.jpg")
    for name in ("submission.csv", "run.json"):
        (tmp_path / "earlier" / name).touch()
    task = load(tmp_path, out=tmp_path / "out")
    assert task.scenes[0].images == ("a.jpg",)
    assert "folders with results of the kit are left out (1): earlier" in task.notes[0]
    assert load(tmp_path, out=tmp_path / "new").scenes[0].images[0] == "a.jpg"
    with pytest.raises(KitError, match=r"choose another --out, as .*results"):
        load(tmp_path, out=tmp_path)


def test_the_same_photos_at_several_sizes_get_a_note(tmp_path: Path) -> None:
    for number in range(3):
        first = photo(tmp_path / f"full/{number}.jpg", (400, 300), "navy" if number else "red")
        photo(tmp_path / f"half/{number}.png", (200, 150), "navy" if number else "red")
        photo(tmp_path / f"other camera/{number}.jpg", (400, 300), "teal")
    assert find_images(tmp_path).notes()[0].endswith("count: full, half")
    (tmp_path / "half").rename(tmp_path / ".hidden")
    assert find_images(tmp_path).notes() == []
    (tmp_path / ".hidden").rename(tmp_path / "half")
    shutil.copytree(first.parent, tmp_path / "copy")
    [note] = find_images(tmp_path).notes()
    assert note.endswith("count: copy, full, half")


def test_a_table_from_windows(tmp_path: Path) -> None:
    for name in ("da/church/images/sub/a.jpg", "da/church/images/odd\\name.jpg"):
        photo(tmp_path / "test" / name)
    header = "image_path,dataset,scene,rotation_matrix,translation_vector\n"
    rows = ["da\\church\\images\\sub\\a.jpg", "da/church\\images\\sub/a.jpg ", "da/church/images/odd\\name.jpg"]
    rows[1] = "..\\..\\secret.jpg"
    lines = "".join(f"{row},da,church,1;0;0;0;1;0;0;0;1,0;0;0\n" for row in rows)
    (tmp_path / "sample_submission.csv").write_text(header + lines)
    task = load(tmp_path)
    assert [row.image for row in task.rows] == ["sub/a.jpg", None, "odd\\name.jpg"]
    assert [row.key["image_path"] for row in task.rows] == rows
