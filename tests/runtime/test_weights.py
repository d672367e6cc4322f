"""Where weight files are searched, and which are refused."""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imc_kit.errors import KitError
from imc_kit.runtime import weights

NAME = "toy.pth"
CONTENT = b"not really a network " * 20
TOY = weights.Weight(
    NAME,
    url="https://example.org/toy.pth",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    license="MIT",
    redistributable=True,
    used_by=("toys",),
    bytes=len(CONTENT),
    aliases=("toy_v0-1-pth",),
)
LOOSE = replace(TOY, name="loose.pth", sha256=weights.UNPINNED, bytes=0, aliases=())


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A manifest of two files, which are nowhere yet, and every place below `tmp_path`."""
    monkeypatch.setattr(weights, "manifest", lambda: {NAME: TOY, LOOSE.name: LOOSE})
    monkeypatch.setattr(weights, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("IMC_KIT_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("IMC_KIT_WEIGHTS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_places_are_tried_in_order(tmp_path):
    """Each place is used when all those before it have nothing."""
    places = [
        tmp_path / "torch" / "hub" / "checkpoints" / NAME,
        tmp_path / "kaggle" / "datasets" / "someone" / "a set" / "deep" / NAME,
        tmp_path / "checkout" / "weights" / NAME,
        tmp_path / "two" / NAME,
        tmp_path / "one" / NAME,
    ]
    for place in places:
        put(place)
        assert weights.find(NAME) == place
    assert weights.download_folder() == tmp_path / "one"


def test_download_folder_is_never_what_kaggle_attaches(tmp_path, monkeypatch):
    monkeypatch.delenv("IMC_KIT_WEIGHTS")
    assert weights.download_folder() == tmp_path / "checkout" / "weights"
    (tmp_path / "checkout" / "pyproject.toml").unlink()
    assert weights.download_folder() == tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize("place", ["one", "kaggle/x/y", "torch/hub/checkpoints"])
def test_kornias_names_are_known(tmp_path, place):
    path = put(tmp_path / place / "toy_v0-1-pth")
    assert weights.find(NAME) == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(KitError, match="is not the published file"):
        weights.find(NAME)


def test_cache_of_torch_without_its_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = put(tmp_path / ".cache" / "torch" / "hub" / "checkpoints" / NAME)
    assert weights.find(NAME) == path


def test_without_a_home_folder_the_other_places_count(tmp_path, monkeypatch):
    """As in a container with `--user`, whose user has no entry in the list of users."""

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for variable in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME", "IMC_KIT_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "checkout" / "pyproject.toml").unlink()
    assert weights.places() == [tmp_path / "kaggle"]
    with pytest.raises(KitError, match="there is no home folder for weight files: name a folder in IMC_KIT_WEIGHTS"):
        weights.download_folder()
    path = put(tmp_path / "kaggle" / NAME)
    assert weights.find(NAME) == path
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as if it were not set
    monkeypatch.setenv("IMC_KIT_WEIGHTS", os.pathsep.join(["~nobody-of-this-name/a", "~/b", str(tmp_path / "one")]))
    assert weights.places() == [tmp_path / "one", tmp_path / "kaggle"]


def test_an_explicit_file_or_folder_is_the_only_place(tmp_path):
    put(tmp_path / "one" / NAME)
    with pytest.raises(KitError, match=r"toy\.pth is missing: looked in .*typo;"):
        weights.find(NAME, tmp_path / "typo")
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(
        KitError, match=rf"looked in {folder}; get it with 'imc-kit weights get toy\.pth --to {folder}'"
    ):
        weights.find(NAME, folder)
    path = put(folder / NAME)
    assert weights.find(NAME, folder) == weights.find(NAME, path) == path


def test_a_file_with_an_unknown_name_is_accepted_as_it_is(tmp_path, caplog):
    """It may be retrained. A file with the name of another published file, or a web page, is refused."""
    caplog.set_level(logging.INFO, "imc_kit")
    file = put(tmp_path / "mine" / "retrained.pth", b"other tensors")
    assert weights.find(NAME, file) == file
    assert f"using {file} for toy.pth" in caplog.text
    with pytest.raises(KitError, match=r"toy\.pth is missing"):
        weights.find(NAME, file.parent)
    with pytest.raises(KitError, match=r"is not the published file: it has the name of another one, loose\.pth"):
        weights.find(NAME, put(tmp_path / "mine" / LOOSE.name))
    with pytest.raises(KitError, match=r"not usable: \S*retrained\.pth is a web page that was saved instead; get it"):
        weights.find(NAME, put(file, b"<html>"))


def test_a_missing_file_is_named_with_places_command_and_licence(tmp_path):
    with pytest.raises(KitError) as caught:
        weights.find(NAME)
    message = str(caught.value)
    for part in ("one", "two", "checkout/weights", "kaggle", "torch/hub/checkpoints", "example.org", "licence: MIT"):
        assert part in message
    assert "'imc-kit weights get toy.pth'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1], "has 419 of 420 bytes: it is cut off"),
        (b"", "is empty"),
        (b" \n" * 600, "is empty"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\xef\xbb\xbf\r\n<HTML>" + CONTENT, "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 420\n", "is a Git LFS pointer"),
        (CONTENT[:-1] + b"?", "is not the published file"),
        (CONTENT + b"?", "has 421 of 420 bytes: it is not the published file"),
    ],
)
def test_other_content_is_refused(tmp_path, content, reason):
    path = put(tmp_path / "mine" / NAME, content)
    for explicit in (path, path.parent):
        with pytest.raises(KitError, match=reason) as caught:
            weights.find(NAME, explicit)
        assert str(path) in str(caught.value)


def test_without_a_known_size_the_hash_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "manifest", lambda: {NAME: replace(TOY, bytes=0)})
    path = put(tmp_path / "one" / NAME)
    assert weights.find(NAME) == path
    put(path, CONTENT[:-1])
    with pytest.raises(KitError, match="SHA-256 differs"):
        weights.find(NAME)


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path = put(tmp_path / "one" / NAME)
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(given) or digest(*given))
    for _ in range(3):
        assert weights.find(NAME) == path
    assert len(read) == 1
    put(path, b"?" + CONTENT[1:])
    os.utime(path, ns=(0, 1_000_000_000))
    with pytest.raises(KitError, match="SHA-256 differs"):
        weights.find(NAME)
    assert len(read) == 2


def test_an_unpinned_file_must_match_its_pin(tmp_path):
    path = put(tmp_path / "one" / LOOSE.name)
    assert weights.find(LOOSE.name) == path
    (tmp_path / "one" / weights.PINS).write_text(f'"other.pth" = "0"\n"loose.pth" = "{TOY.sha256}"\n')
    assert weights.find(LOOSE.name) == path
    put(path, CONTENT + b"?")
    with pytest.raises(KitError, match=r"its SHA-256 is not the one in pins\.toml"):
        weights.find(LOOSE.name)
    for content in (b"<!DOCTYPE html>", b""):
        with pytest.raises(KitError, match=r"is (a web page|empty)"):
            weights.find(LOOSE.name, put(tmp_path / "elsewhere" / LOOSE.name, content))


@pytest.mark.parametrize("content", [b"loose.pth = ", b"\xff\xfe"])
def test_pins_that_cannot_be_read_are_named(tmp_path, content):
    put(tmp_path / "one" / LOOSE.name)
    pins = put(tmp_path / "one" / weights.PINS, content)
    with pytest.raises(KitError, match="delete it") as caught:
        weights.find(LOOSE.name)
    assert str(pins) in str(caught.value)


def test_broken_file_does_not_hide_a_good_one(tmp_path, caplog):
    put(tmp_path / "one" / NAME, CONTENT[:100])
    good = put(tmp_path / "kaggle" / "x" / NAME)
    assert weights.find(NAME) == good
    assert f"{tmp_path / 'one' / NAME} has 100 of 420 bytes" in caplog.text


def test_folders_named_like_the_file_are_skipped(tmp_path):
    (tmp_path / "one" / NAME).mkdir(parents=True)
    (tmp_path / "kaggle" / NAME).mkdir(parents=True)
    good = put(tmp_path / "kaggle" / NAME / NAME)
    assert weights.find(NAME) == good


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    path = put(tmp_path / "one" / NAME)
    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(KitError, match="cannot be read") as caught:
        weights.find(NAME)
    assert str(path) in str(caught.value)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(KitError, match=r"did you mean 'toy\.pth'"):
        weights.find("toi.pth")


def test_the_manifest_describes_the_published_files(shared, monkeypatch, tmp_path):
    monkeypatch.undo()
    for name in ("aliked-t16.pth", "aliked-n16.pth", "aliked-n16rot.pth", "aliked-n32.pth"):
        weight = weights.manifest()[name]
        assert weights.find(name, shared / "weights") == shared / "weights" / name
        assert (shared / "weights" / name).stat().st_size == weight.bytes
        assert weight.url.endswith(name)
        shutil.copy(shared / "weights" / name, tmp_path)
        with (tmp_path / name).open("r+b") as file:
            file.seek(1000)
            file.write(b"x")
        with pytest.raises(KitError, match="SHA-256 differs"):
            weights.find(name, tmp_path)


def test_the_manifest_is_consistent(monkeypatch):
    monkeypatch.undo()
    known = weights.manifest().values()
    names = [name for weight in known for name in weight.names]
    assert len(set(names)) == len(names)
    users = {user for weight in known for user in weight.used_by}
    assert not users & set(names)
    for weight in known:
        assert Path(weight.name).name == weight.name
        assert urlsplit(weight.url).scheme == "https"
        assert urlsplit(weight.url).path.endswith((weight.name, "/model.safetensors"))
        assert weight.sha256 == weights.UNPINNED or (len(weight.sha256) == 64 and bytes.fromhex(weight.sha256))
        assert weight.license
        assert weight.used_by
    assert [weight.name for weight in known if not weight.redistributable and weight.sha256 != weights.UNPINNED] == [
        "superpoint_v1.pth",
        "keynet_pytorch.pth",
    ]


@pytest.mark.slow
def test_the_manifest_has_the_files_that_kornia_downloads(monkeypatch):
    """With its names in torch's cache, and from the same addresses except for the host."""
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    kornia = pytest.importorskip("kornia.feature")
    asked = {}

    def record(url, *_, file_name=None, **__):
        urls = [url] if isinstance(url, str) else url
        asked[file_name or urls[0].rsplit("/", 1)[1]] = urls
        raise LookupError

    for module in ("aliked.aliked", "disk.disk", "lightglue", "loftr.loftr", "xfeat", "keynet", "hardnet"):
        monkeypatch.setattr(f"kornia.feature.{module}.load_state_dict_from_url", record)
    for module in ("orientation", "affine_shape", "dedode.dedode", "dedode.encoder"):
        monkeypatch.setattr(f"kornia.feature.{module}.load_state_dict_from_url", record)

    def on_meta(name):  # it is large
        with torch.device("meta"):
            kornia.LightGlue(name)

    features = ("aliked", "superpoint", "disk", "sift", "doghardnet", "xfeat", "dedodeb", "dedodeg")
    for load in (
        *(lambda name=name: kornia.ALIKED.from_pretrained(name) for name in ("aliked-t16", "aliked-n32")),
        *(lambda name=name: on_meta(name) for name in features),
        lambda: kornia.DISK.from_pretrained("depth"),
        lambda: kornia.XFeat.from_pretrained(),
        lambda: kornia.LoFTR("outdoor"),
        lambda: kornia.KeyNet(True),
        lambda: kornia.HardNet(True),
        lambda: kornia.OriNet(True),
        lambda: kornia.LAFAffNetShapeEstimator(True),
    ):
        with pytest.raises(LookupError):
            load()
    by_name = {name: weight for weight in weights.manifest().values() for name in weight.names}
    assert len(asked) == 17
    for name, urls in asked.items():
        ours = by_name[name].url.replace("683d7c65197395c0b3f01ebe76e1084a27e73a65", "main")
        assert ours in urls
    from kornia.feature.dedode import dedode, encoder

    for kind, variant in (("detector", "L"), ("descriptor", "B"), ("descriptor", "G")):
        assert by_name[f"dedode_{kind}_{variant}.pth"].url in dedode.urls[kind][f"{variant}-upright"]
    assert by_name["dinov2_vitl14_pretrain.pth"].url == encoder.urls["dinov2_vitl14"]


def test_the_link_in_the_checkout_is_the_manifest():
    root = Path(__file__).parents[2]
    assert (root / "weights/manifest.toml").resolve() == root / "src/imc_kit/runtime/weights.toml"
