"""Layouts on disk, read as scenes and rows."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from imc_kit.data.scenes import Task, load
from imc_kit.data.submission import check, compose, write
from imc_kit.data.tables import POSE_COLUMNS
from imc_kit.errors import KitError

POSE = ("1;0;0;0;1;0;0;0;1", "0;0;0")
BY_PATH = ("image_path", "dataset", "scene")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([(*columns, *POSE_COLUMNS), *((*row, *POSE) for row in rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def ask(root: Path, *names: str, scene: str = "church") -> None:
    """The sample submission of 2024 for images of one scene."""
    table(root / "sample_submission.csv", BY_PATH, [(f"test/{scene}/images/{name}", scene, scene) for name in names])


def asked(task: Task) -> list[tuple[str, str | None]]:
    return [(row.scene, row.image) for row in task.rows]


# The published layouts


def test_2024(tmp_path: Path) -> None:
    touch(tmp_path, *(f"test/church/images/{name}.png" for name in ("00046", "00090", "extra")))
    touch(tmp_path, "test/lizard/images/1.jpg", "test/unasked/images/2.jpg", "test/church/sfm/3.jpg")
    (tmp_path / "test/categories.csv").write_text("scene,categories\nchurch,symmetries-and-repeats; air-to-ground\n")
    rows = [("lizard", "1.jpg"), ("church", "00090.png"), ("church", "00046.png")]
    table(tmp_path / "sample_submission.csv", BY_PATH, [(f"test/{s}/images/{i}", s, s) for s, i in rows])

    task = load(tmp_path)
    assert task.layout == "2024"
    assert not task.predicts_scene
    assert task.columns == (*BY_PATH, *POSE_COLUMNS)
    assert asked(task) == rows
    assert task.rows[1].key == {"image_path": "test/church/images/00090.png", "dataset": "church", "scene": "church"}
    assert task.notes == ()
    lizard, church = task.scenes
    assert church.images == ("00046.png", "00090.png", "extra.png")
    assert church.root == tmp_path / "test/church/images"
    assert church.categories == ("symmetries-and-repeats", "air-to-ground")
    assert (lizard.name, lizard.images, lizard.categories) == ("lizard", ("1.jpg",), ())
    assert church.path("00046.png").is_file()


def test_2024_train_names_files_alone(tmp_path: Path) -> None:
    touch(tmp_path, "train/church/images/a.png", "train/pond/images/a.png", "test/church/images/t.png")
    columns = ("image_name", "dataset", "scene", "calibration_matrix")
    rows = [("a.png", "pond", "pond", "1;0"), ("a.png", "church", "church", "1;0")]
    table(tmp_path / "train/train_labels.csv", columns, rows)
    ask(tmp_path, "t.png")

    task = load(tmp_path, "train")
    assert task.layout == "2024"
    assert task.columns == (*columns, *POSE_COLUMNS)
    assert asked(task) == [("pond", "a.png"), ("church", "a.png")]
    assert task.scenes[0].root == tmp_path / "train/pond/images"


def test_2023(tmp_path: Path) -> None:
    images = ("heritage/cyprus/images/b.jpg", "urban/cyprus/images/b.jpg", "heritage/cyprus/images/a.jpg")
    touch(tmp_path, *(f"test/{image}" for image in images), "test/heritage/cyprus/images_full/c.jpg")
    touch(tmp_path, *(f"train/{image}" for image in images))
    rows = [(image, *image.split("/")[:2]) for image in images]
    table(tmp_path / "sample_submission.csv", BY_PATH, rows)
    labels = [(dataset, scene, image) for image, dataset, scene in rows]
    table(tmp_path / "train/train_labels.csv", ("dataset", "scene", "image_path"), labels)

    for split in ("test", "train"):
        task = load(tmp_path, split)
        assert task.layout == "2023"
        assert asked(task) == [("heritage/cyprus", "b.jpg"), ("urban/cyprus", "b.jpg"), ("heritage/cyprus", "a.jpg")]
        assert [scene.root for scene in task.scenes] == [
            tmp_path / split / "heritage/cyprus/images",
            tmp_path / split / "urban/cyprus/images",
        ]
        assert task.scenes[0].images == ("a.jpg", "b.jpg")
    assert task.columns == ("dataset", "scene", "image_path", *POSE_COLUMNS)


def test_2025(tmp_path: Path) -> None:
    touch(tmp_path, *(f"test/{name}" for name in ("ETs/et1.png", "ETs/et2.png", "ETs/more.png", "stairs/s.png")))
    columns = ("image_id", "dataset", "scene", "image")
    rows = [
        ("stairs_s.png_public", "stairs", "cluster9", "s.png"),
        ("ETs_et2.png_public", "ETs", "cluster9", "et2.png"),
        ("ETs_et1.png_public", "ETs", "cluster9", "et1.png"),
    ]
    table(tmp_path / "sample_submission.csv", columns, rows)

    task = load(tmp_path)
    assert task.layout == "2025"
    assert task.predicts_scene
    assert task.columns == (*columns, *POSE_COLUMNS)
    assert asked(task) == [("stairs", "s.png"), ("ETs", "et2.png"), ("ETs", "et1.png")]
    assert [(scene.name, scene.root) for scene in task.scenes] == [
        ("stairs", tmp_path / "test/stairs"),
        ("ETs", tmp_path / "test/ETs"),
    ]
    assert task.scenes[1].images == ("et1.png", "et2.png", "more.png")
    assert task.keys[0] == {"image_id": "stairs_s.png_public", "dataset": "stairs", "image": "s.png"}


def test_2025_train_labels_are_in_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/ETs/a.png", "train/ETs/out.png")
    columns = ("dataset", "scene", "image")
    table(tmp_path / "train_labels.csv", columns, [("ETs", "ET", "a.png"), ("ETs", "outliers", "out.png")])
    task = load(tmp_path, "train")
    assert task.layout == "2025"
    assert asked(task) == [("ETs", "a.png"), ("ETs", "out.png")]


def test_the_shared_scenes(shared: Path) -> None:
    root = shared / "scenes"
    task = load(root)
    assert task.layout == "2024"
    assert len(task.scenes) == 12
    assert task.notes == ()
    with (root / "sample_submission.csv").open(encoding="utf-8", newline="") as file:
        assert [row.key["image_path"] for row in task.rows] == [row["image_path"] for row in csv.DictReader(file)]
    scenes = {scene.name: scene for scene in task.scenes}
    for row in task.rows:
        assert row.image is not None
        assert scenes[row.scene].path(row.image) == (root / row.key["image_path"]).resolve()
    assert sum(len(scene.images) for scene in task.scenes) == len(task.rows)
    assert scenes["castle_P19"].categories == ("symmetries-and-repeats",)


@pytest.mark.parametrize(
    "names",
    [
        ("test/church/images/a.jpg", "test/church/images/sub/b.jpg", "test/pond/images/a.jpg"),
        ("test/da/church/images/a.jpg", "test/db/church/images/a.jpg"),
        ("test/da/a.png", "test/db/a.png"),
        ("a.jpg", "sub/a.jpg", "test/a.jpg"),
        ("one.jpg",),
    ],
)
def test_the_first_submission_of_a_task_is_valid(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    task = load(tmp_path)
    path = tmp_path / "submission.csv"
    write(path, task.columns, compose(task.rows, {}, predict_scene=task.predicts_scene))
    assert len(task.rows) == len(names)
    assert check(path, task.columns, task.keys) == []


# Folders without a table of rows


def test_a_folder_is_one_scene_and_every_image_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "my photos.2024"
    names = ["b.JPG", "sub/a.tiff", "sub/deep er/é.webp", "a.png", "a.jpg", "a.b.jpeg", "z.bmp", "z.tif"]
    touch(folder, *names, "notes.txt", "Thumbs.db", ".hidden.jpg", ".git/x.jpg", "__MACOSX/._a.jpg", "jpg", "a.jpg.txt")
    task = load(folder)
    assert task.layout == "folder"
    assert task.columns == (*BY_PATH, *POSE_COLUMNS)
    [scene] = task.scenes
    assert (scene.name, scene.root) == ("my photos.2024", folder)
    assert scene.images == tuple(sorted(names))
    assert asked(task) == [("my photos.2024", name) for name in sorted(names)]
    assert task.rows[0].key == {"image_path": "a.b.jpeg", "dataset": "my photos.2024", "scene": "my photos.2024"}
    assert task.notes == ()


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize(
    ("layout", "images", "key"),
    [
        (
            "2024",
            "church/images",
            {"image_path": "{split}/church/images/a.jpg", "dataset": "church", "scene": "church"},
        ),
        ("2023", "da/church/images", {"image_path": "da/church/images/a.jpg", "dataset": "da", "scene": "church"}),
        ("2025", "da", {"image_id": "da/a.jpg", "dataset": "da", "scene": "", "image": "a.jpg"}),
    ],
)
def test_a_competition_without_its_table(
    tmp_path: Path, split: str, layout: str, images: str, key: dict[str, str]
) -> None:
    touch(tmp_path, f"{split}/{images}/b.jpg", f"{split}/{images}/a.jpg")
    task = load(tmp_path, split)
    assert task.layout == layout
    assert task.rows[0].key == {column: value.format(split=split) for column, value in key.items()}
    assert [row.image for row in task.rows] == ["a.jpg", "b.jpg"]
    [note] = task.notes
    assert f"every image in {tmp_path / split} is a row" in note


def test_images_directly_in_a_folder_called_test_are_a_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path, "test/a.jpg", "other/b.jpg")
    assert load(tmp_path).layout == "folder"
    assert load(tmp_path / "test").scenes[0].images == ("a.jpg",)


def test_a_missing_split_is_not_read_as_a_folder_of_photos(tmp_path: Path) -> None:
    touch(tmp_path, "train/church/images/a.png")
    table(tmp_path / "train/train_labels.csv", ("image_name", "dataset", "scene"), [("a.png", "church", "church")])
    with pytest.raises(KitError, match=r"neither sample_submission.csv nor images in a folder test"):
        load(tmp_path)
    touch(tmp_path / "photos", "a.jpg")
    with pytest.raises(KitError, match=r"neither train_labels.csv nor images in a folder train"):
        load(tmp_path / "photos", "train")


# Names


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("A.JPG", "a.jpg"),
        ("a.jpeg", "a.jpg"),
        ("a.png", "A.TIFF"),
        ("a", "a.jpg"),
        ("a.b.jpg", "a.b.png"),
        ("Sub/a.jpg", "sub/a.JPG"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
    ],
)
def test_a_name_that_differs_in_case_or_extension_is_found_with_a_note(tmp_path: Path, wanted: str, there: str) -> None:
    touch(tmp_path, f"test/church/images/{there}", "test/church/images/other.jpg")
    ask(tmp_path, wanted, "other.jpg")
    task = load(tmp_path)
    assert asked(task) == [("church", there), ("church", "other.jpg")]
    assert task.rows[0].key["image_path"] == f"test/church/images/{wanted}"
    [note] = task.notes
    assert f"{wanted} is {there}" in note


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (["a.jpeg"], ["a.jpg", "a.png"]),  # which of the two?
        (["A.jpg", "a.JPG"], ["a.jpg"]),  # one file cannot be both
        (["a.jpg", "a.png"], ["a.jpg"]),  # it is taken
        (["a.jpg"], ["sub/a.jpg"]),
        (["a.b.jpg"], ["a.c.jpg", "a.jpg"]),
    ],
)
def test_an_ambiguous_name_is_not_guessed(tmp_path: Path, wanted: list[str], there: list[str]) -> None:
    touch(tmp_path, *(f"test/church/images/{name}" for name in there))
    ask(tmp_path, *wanted)
    task = load(tmp_path)
    assert [row.image for row in task.rows] == [name if name in there else None for name in wanted]
    assert "have no file" in task.notes[0]


def test_awkward_names_stay_whole(tmp_path: Path) -> None:
    names = ["a b.jpg", "a.b.c.jpg", "東京 é.png", "a.jpg", "a.png", "sub/a.jpg", "images/a.jpg", "q,\"'.jpg", "-x.jpg"]
    touch(tmp_path, *(f"test/church/images/{name}" for name in names))
    ask(tmp_path, *names)
    task = load(tmp_path)
    assert [row.image for row in task.rows] == names
    assert task.notes == ()


def test_missing_files_keep_their_rows(tmp_path: Path) -> None:
    touch(tmp_path, "test/church/images/there.jpg")
    ask(tmp_path, *(f"gone{number}.jpg" for number in range(9)), "there.jpg")
    task = load(tmp_path)
    assert [row.image for row in task.rows] == [None] * 9 + ["there.jpg"]
    [note] = task.notes
    assert note == "church: 9 of 10 requested images have no file: gone0.jpg, gone1.jpg, gone2.jpg and 6 more"


def test_a_missing_scene_keeps_its_rows(tmp_path: Path) -> None:
    touch(tmp_path, "test/church/images/a.jpg")
    (tmp_path / "test/empty/images").mkdir(parents=True)
    rows = [(f"test/{scene}/images/a.jpg", scene, scene) for scene in ("pond", "church", "empty", "x" * 300)]
    table(tmp_path / "sample_submission.csv", BY_PATH, rows)
    task = load(tmp_path)
    assert asked(task) == [("pond", None), ("church", "a.jpg"), ("empty", None), ("x" * 300, None)]
    assert [scene.name for scene in task.scenes] == ["church"]
    assert "pond: there is no folder" in task.notes[0]
    assert "empty: 1 of 1 requested images" in task.notes[1]


def test_images_next_to_or_inside_a_folder_images(tmp_path: Path) -> None:
    touch(tmp_path, "test/church/a.jpg", "test/pond/images/b.jpg")
    rows = [("test/church/images/a.jpg", "church", "church"), ("test/pond/b.jpg", "pond", "pond")]
    table(tmp_path / "sample_submission.csv", BY_PATH, rows)
    task = load(tmp_path)
    assert asked(task) == [("church", "a.jpg"), ("pond", "b.jpg")]
    assert [scene.root for scene in task.scenes] == [tmp_path / "test/church", tmp_path / "test/pond/images"]


# Hostile input


@pytest.mark.parametrize(
    "path",
    [
        "test/church/images/../../../secret.jpg",
        "../secret.jpg",
        "test/../../secret.jpg",
        "/etc/secret.jpg",
        "",
        ".",
        "test",
        "test/church",
        "elsewhere/church/images/a.jpg",
        "test/church/images/a\0.jpg",
        "test/church/images/a\nb.jpg",
    ],
)
def test_a_path_that_leaves_its_scene_is_not_read(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    touch(root, "test/church/images/a.jpg")
    touch(tmp_path, "secret.jpg", "root/secret.jpg")
    table(
        root / "sample_submission.csv",
        BY_PATH,
        [(path, "church", "church"), ("test/church/images/a.jpg",) + ("church",) * 2],
    )
    task = load(root)
    assert asked(task) == [("church", None), ("church", "a.jpg")]
    assert task.rows[0].key["image_path"] == path
    assert task.notes[0].startswith("rows whose path lies in no scene get a guess: ")


@pytest.mark.parametrize(("dataset", "image"), [("..", "a.png"), ("ETs", "../a.png"), ("", "a.png"), (".", "x/a.png")])
def test_a_2025_path_that_leaves_its_scene_is_not_read(tmp_path: Path, dataset: str, image: str) -> None:
    touch(tmp_path, "a.png", "test/a.png", "test/ETs/b.png", "test/x/a.png")
    rows = [("1", dataset, "?", image), ("2", "ETs", "?", "b.png")]
    table(tmp_path / "sample_submission.csv", ("image_id", "dataset", "scene", "image"), rows)
    task = load(tmp_path)
    assert [row.image for row in task.rows] == [None, "b.png"]
    assert [scene.name for scene in task.scenes] == ["ETs"]
    assert task.rows[0].scene == dataset


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    touch(folder, "real/a.jpg", "real/sub/b.jpg")
    touch(tmp_path, "outside/c.jpg")
    (folder / "alias").symlink_to(folder / "real")
    (folder / "loop").symlink_to(folder)
    (folder / "real/up").symlink_to("..")
    (folder / "self").symlink_to("self")
    (folder / "outside").symlink_to(tmp_path / "outside")
    (folder / "file.jpg").symlink_to(tmp_path / "outside/c.jpg")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    assert load(folder).scenes[0].images == ("file.jpg", "outside/c.jpg", "real/a.jpg", "real/sub/b.jpg")
    (tmp_path / "link").symlink_to(folder)
    assert load(tmp_path / "link").scenes[0].root == folder
    with pytest.raises(KitError, match="not a folder"):
        load(folder / "self")


def test_names_that_do_not_fit_a_table_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    touch(folder, "a.jpg", "b\n.jpg")
    (folder / "\udcff.jpg").touch()
    task = load(folder)
    assert task.scenes[0].images == ("a.jpg",)
    [note] = task.notes
    assert r"(2): b\n.jpg, \udcff.jpg" in note


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: touch(root, "a.txt"), lambda root: ask(root, "a.jpg")]
)
def test_no_images_at_all(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(KitError, match="there are no images"):
        load(tmp_path)


def test_no_folder_and_no_such_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(KitError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(KitError, match=r"a.jpg is not a folder"):
        load(str(tmp_path / "a.jpg"))
    with pytest.raises(KitError, match="did you mean 'train'"):
        load(tmp_path, "trian")


def test_a_table_that_cannot_be_answered_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "test/church/images/a.jpg")
    sample = tmp_path / "sample_submission.csv"
    ask(tmp_path, "a.jpg", "b.jpg", "a.jpg")
    with pytest.raises(
        KitError, match=r"sample_submission.csv asks for test/church/images/a.jpg twice, in rows 1 and 3"
    ):
        load(tmp_path)
    ask(tmp_path)
    with pytest.raises(KitError, match=r"sample_submission.csv asks for no rows"):
        load(tmp_path)
    for header, said in (
        ("image_path,dataset,rotation_matrix", "lacks the column scene, translation_vector"),
        ("dataset,scene,rotation_matrix,translation_vector", "lacks the column image_path"),
    ):
        sample.write_text(header + "\n")
        with pytest.raises(KitError, match=rf"sample_submission.csv {said}"):
            load(tmp_path)
    sample.write_text("")
    with pytest.raises(KitError, match="is empty"):
        load(tmp_path)


def test_categories_that_cannot_be_read_do_not_stop_the_run(tmp_path: Path) -> None:
    touch(tmp_path, "test/church/images/a.jpg")
    ask(tmp_path, "a.jpg")
    (tmp_path / "test/categories.csv").write_text("scene\nchurch\n")
    task = load(tmp_path)
    assert task.scenes[0].categories == ()
    assert "categories are left out" in task.notes[0]


def test_thousands_of_images(tmp_path: Path) -> None:
    names = [f"{number:05}.jpg" for number in range(1_000)]
    touch(tmp_path, "test/church/images/0.txt")
    for name in names:
        (tmp_path / "test/church/images" / name).touch()
    ask(tmp_path, *(name.replace(".jpg", ".JPG") for name in reversed(names)))
    task = load(tmp_path)
    assert [row.image for row in task.rows] == names[::-1]
    assert task.scenes[0].images == tuple(names)
    assert len(task.notes[0]) < 300


def test_only_some_images(tmp_path: Path) -> None:
    names = [("church", "1.jpg"), ("lizard", "in/2.jpg"), ("church", "3 a.jpg"), ("lizard", "1.jpg"), ("gone", "4.jpg")]
    touch(tmp_path, *(f"test/{scene}/images/{name}" for scene, name in names[:4]))
    table(tmp_path / "sample_submission.csv", BY_PATH, [(f"test/{s}/images/{n}", s, s) for s, n in names])
    task, listed = load(tmp_path), tmp_path / "list.txt"
    listed.write_text("# some\n\n  3 a.jpg\r\n./test/church/images/1.jpg\nchurch/1.jpg\n", "utf-8")
    church = task.only_images(listed)
    assert [(scene.name, scene.images) for scene in church.scenes] == [("church", ("1.jpg", "3 a.jpg"))]
    assert asked(church) == [("church", "1.jpg"), ("church", "3 a.jpg")]
    two = task.only_images(["lizard/1.jpg", "in/2.jpg", "church/1.jpg"])
    assert asked(two) == [("church", "1.jpg"), ("lizard", "in/2.jpg"), ("lizard", "1.jpg")]
    with pytest.raises(KitError, match=r"'1\.jpg', which is in several scenes: write church/1\.jpg, lizard/1\.jpg"):
        task.only_images(["1.jpg"])
    listed.write_text("a.jpg\nb.jpg\nc.jpg\nin/2.JPG\n")
    with pytest.raises(KitError, match=r"names 4 images that do not exist in .*: a.jpg, b.jpg, c.jpg and 1 more"):
        task.only_images(listed)
    with pytest.raises(KitError, match=r"in/2\.JPG; did you mean 'in/2\.jpg'\?"):
        task.only_images(["in/2.JPG"])
    for nothing in ([], listed):
        listed.write_text("# none\n")
        with pytest.raises(KitError, match="no image: give at least one"):
            task.only_images(nothing)
    with pytest.raises(KitError, match="there is no file"):
        task.only_images(tmp_path / "none.txt")


def test_only_some_images_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "in/b.jpg", "c.jpg")
    task = load(tmp_path).only_images(["in/b.jpg", "a.jpg"])
    assert [scene.images for scene in task.scenes] == [("a.jpg", "in/b.jpg")]
    assert [row.image for row in task.rows] == ["a.jpg", "in/b.jpg"]


def test_only_some_scenes(tmp_path: Path) -> None:
    names = [("church", "1.jpg"), ("lizard", "2.jpg"), ("church", "3.jpg"), ("gone", "4.jpg")]
    touch(tmp_path, *(f"test/{scene}/images/{name}" for scene, name in names[:3]))
    table(tmp_path / "sample_submission.csv", BY_PATH, [(f"test/{s}/images/{n}", s, s) for s, n in names])
    task = load(tmp_path)
    church = task.only("church")
    assert [scene.name for scene in church.scenes] == ["church"]
    assert asked(church) == [("church", "1.jpg"), ("church", "3.jpg")]
    assert asked(task.only("church", "lizard")) == asked(task)[:3]
    with pytest.raises(KitError, match="unknown scene 'lizzard': did you mean 'lizard'"):
        task.only("lizzard")
