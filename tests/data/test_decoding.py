"""Decoding in bounded memory: large images in strips, and files that ask for too much."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from imc_kit.data import decoding, images
from imc_kit.errors import KitError
from imc_kit.runtime.budget import Budget

RNG = np.random.default_rng(0)


@pytest.fixture
def tiny_strips(monkeypatch):
    monkeypatch.setattr(decoding, "_STRIP", 500)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".png"), ("L", ".bmp"), ("P", ".png"), ("CMYK", ".tif")])
def test_strips_give_the_pixels_of_the_whole(tmp_path, tiny_strips, mode, suffix):
    stored = Image.fromarray(RNG.integers(0, 256, (43, 61, 3)).astype(np.uint8)).convert(mode)
    stored.save(tmp_path / f"a{suffix}")
    expected = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(images.load(tmp_path / f"a{suffix}").pixels, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_by_the_brightest_of_all_strips(tmp_path, tiny_strips, channels):
    samples = RNG.integers(0, 900, (43, 61, channels)).astype(np.uint16)
    samples[-1, -1, :3] = 4000  # 12 bits
    cv2.imwrite(str(tmp_path / "a.png"), samples[..., ::-1] if channels == 3 else samples)
    expected = samples if channels != 4 else samples[..., 2::-1]
    found = images.load(tmp_path / "a.png").pixels
    np.testing.assert_allclose(found, np.broadcast_to(expected * (255 / 4095), found.shape), atol=0.51)


@pytest.mark.parametrize("size", [(640, 480), (643, 477)])
def test_a_large_image_is_reduced_while_it_is_read(tmp_path, tiny_strips, monkeypatch, size):
    texture = cv2.resize(RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8), size)
    Image.fromarray(texture).save(tmp_path / "a.png")
    expected = images.load(tmp_path / "a.png", 100)
    monkeypatch.setattr(decoding, "_LARGE", 1000)
    reduced = images.load(tmp_path / "a.png", 100)
    assert reduced.size == expected.size == size
    assert reduced.pixels.shape == expected.pixels.shape
    assert np.abs(reduced.pixels.astype(int) - expected.pixels).mean() < 2


def test_more_pixels_than_accepted(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "a.webp")
    assert images.load(tmp_path / "a.png", max_pixels=20_000).size == (200, 100)
    for name, most in (("a.png", 19_999), ("a.webp", 39_999)):
        for read in (images.probe, images.load):
            with pytest.raises(KitError, match=r"200 × 100 pixels are more than .*--max-pixels"):
                read(tmp_path / name, max_pixels=most)
    with (tmp_path / "a.png").open("r+b") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(KitError, match="the file is larger than"):
        images.probe(tmp_path / "a.png")


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "jpeg", progressive=True)
    content = file.getvalue()
    (tmp_path / "few.jpg").write_bytes(content)
    images.load(tmp_path / "few.jpg")
    last = content.rindex(b"\xff\xda")
    (tmp_path / "many.jpg").write_bytes(content[:last] + content[last:-2] * 60 + content[-2:])
    with pytest.raises(KitError, match="progressive scans"):
        images.probe(tmp_path / "many.jpg")


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_avif_is_upright(tmp_path, orientation):
    pytest.importorskip("PIL._avif")
    y, x = np.mgrid[0:48, 0:64]
    stored = np.stack([4 * x, 5 * y, x + y], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.avif", quality=95, exif=exif.tobytes())
    expected = np.rot90(stored, {1: 0, 3: 2, 6: -1}[orientation])
    assert np.abs(images.load(tmp_path / "a.avif").pixels.astype(int) - expected).mean() < 2


def test_heic_is_read_or_says_what_reads_it(tmp_path):
    path: Path = tmp_path / "a.jpg"
    try:
        import pillow_heif
    except ImportError:
        path.write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heicmiaf" + bytes(400))
        with pytest.raises(KitError, match=r"it is a HEIC file: .* pip install 'imc-kit\[heif\]'"):
            images.load(path)
    else:
        pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 90, 30))).save(path)
        np.testing.assert_allclose(images.load(path).pixels.mean((0, 1)), (200, 90, 30), atol=3)


def test_threads_share_the_budget():
    budget, running, most = Budget(10), [], []
    gate = threading.Barrier(2, timeout=10)

    def work(amount):
        with budget.reserved(amount):
            running.append(amount)
            most.append(sum(running))
            if amount == 5:
                gate.wait()  # two of these fit at once
            running.remove(amount)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (5, 5, 8, 8, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not running
    assert max(value for value in most if value != 99) <= 10
