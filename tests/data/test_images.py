"""Decoding: the right pixels upright at the right size, or a clear refusal."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from imc_kit.data import images, listing
from imc_kit.errors import KitError
from rotations import rotate_points

RNG = np.random.default_rng(0)


def picture(width: int = 61, height: int = 43) -> np.ndarray:
    """A smooth picture without symmetry that survives JPEG."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([40 + 200 * x, 230 - 190 * y, 60 + 150 * x * y], axis=2).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *late: bytes) -> bytes:
    """A PNG with headers and chunks that no encoder writes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), *late, png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_with_orientation(data: bytes, orientation: int) -> bytes:
    """A little-endian TIFF with the tag added to its directory, which moves to the end."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


# EXIF orientation -> the sides of the upright picture where the stored row 0 and the stored column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright_index(orientation: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """For every stored pixel, its row and column in the upright picture [height, width]."""
    row_side, column_side = SIDES[orientation]
    swapped = row_side in ("left", "right")
    rows, columns = np.indices((width, height) if swapped else (height, width))

    def along(side: str, distance: np.ndarray) -> np.ndarray:
        return distance if side in ("top", "left") else {"bottom": height, "right": width}[side] - 1 - distance

    down, right = along(row_side, rows), along(column_side, columns)
    return (right, down) if swapped else (down, right)


# ---- kinds of files ----


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".png", {}, 0),
        (".bmp", {}, 0),
        (".tif", {}, 0),
        (".tiff", {"compression": "tiff_lzw"}, 0),
        (".webp", {"lossless": True}, 0),
        (".webp", {"quality": 95}, 8),
        (".jpg", {"quality": 98, "subsampling": 0}, 3),
        (".jpeg", {"quality": 98, "progressive": True}, 4),
    ],
)
def test_every_format_gives_the_pixels(tmp_path, suffix, options, tolerance):
    expected = picture()
    photo = images.load(save(tmp_path / f"a{suffix}", expected, **options))
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert photo.pixels.flags.writeable
    assert photo.size == (61, 43)
    assert (photo.rotation_quarters, photo.mirrored) == (0, False)
    assert suffix in listing.IMAGE_SUFFIXES
    np.testing.assert_allclose(photo.pixels.astype(int), expected, atol=tolerance)


def test_grey_and_palettes_become_rgb(tmp_path):
    for mode in ("L", "LA", "1"):
        for suffix in (".png", ".tif"):
            path = save(tmp_path / f"a{suffix}", picture(), mode)
            with Image.open(path) as image:
                expected = np.asarray(image.convert("L"))
            np.testing.assert_array_equal(images.load(path).pixels, np.repeat(expected[..., None], 3, axis=2))
    indices = RNG.integers(0, 4, (20, 30)).astype(np.uint8)
    palette = RNG.integers(0, 256, (4, 3)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=2)
    np.testing.assert_array_equal(images.load(tmp_path / "a.png").pixels, palette[indices])


@pytest.mark.parametrize(
    ("suffix", "options"), [(".png", {}), (".tif", {}), (".webp", {"lossless": True, "exact": True})]
)
def test_alpha_is_dropped(tmp_path, suffix, options):
    colour = picture()
    alpha = RNG.integers(0, 256, colour.shape[:2]).astype(np.uint8)
    path = save(tmp_path / f"a{suffix}", np.dstack([colour, alpha]), **options)
    np.testing.assert_array_equal(images.load(path).pixels, colour)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_has_its_colours(tmp_path, suffix):
    inks = np.zeros((32, 64, 4), np.uint8)  # white, cyan, magenta and black, 16 columns each
    inks[:, 16:32, 0] = inks[:, 32:48, 1] = inks[:, 48:, 3] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / f"a{suffix}")
    seen = images.load(tmp_path / f"a{suffix}").pixels[16, 8::16]
    np.testing.assert_allclose(seen.astype(int), [[255] * 3, [0, 255, 255], [255, 0, 255], [0] * 3], atol=4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("brightest", "white", "channels"), [(65535, 65535, 1), (20000, 65535, 3), (3000, 4095, 4), (200, 255, 3)]
)
def test_sixteen_bits_are_scaled_by_the_depth_in_use(tmp_path, suffix, brightest, white, channels):
    samples = RNG.integers(0, brightest + 1, (30, 40, channels)).astype(np.uint16)
    samples[3, 4] = brightest
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), samples)  # OpenCV takes BGR
    colour = np.repeat(samples, 3, axis=2) if channels == 1 else samples[..., 2::-1]
    expected = colour * 255.0 / white
    np.testing.assert_allclose(images.load(tmp_path / f"a{suffix}").pixels, expected, atol=0.501)


def test_sixteen_bit_grey_with_alpha_and_all_black(tmp_path):
    samples = RNG.integers(0, 65536, (20, 30, 2)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    (tmp_path / "a.png").write_bytes(png(30, 20, 16, 4, rows))
    expected = np.repeat(samples[..., :1] / 257, 3, axis=2)
    np.testing.assert_allclose(images.load(tmp_path / "a.png").pixels, expected, atol=0.501)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((20, 30), np.uint16))
    assert not images.load(tmp_path / "b.png").pixels.any()


def test_the_content_decides_not_the_suffix(tmp_path):
    path = tmp_path / "Łódź 1. view.JPG"
    save(tmp_path / "a.png", picture()).rename(path)
    np.testing.assert_array_equal(images.load(str(path)).pixels, picture())


# ---- orientation ----


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".jpg", {"quality": 98, "subsampling": 0}), (".png", {}), (".tif", {}), (".webp", {"lossless": True})],
)
def test_exif_orientation_is_applied_once(tmp_path, suffix, options, orientation):
    upright = picture(61, 43)
    stored = upright[upright_index(orientation, 43, 61)]
    path = save(tmp_path / f"a{suffix}", stored, exif=exif(orientation), **options)
    photo = images.load(path)
    np.testing.assert_allclose(photo.pixels.astype(int), upright, atol=3)
    assert photo.size == (61, 43)
    assert images.probe(path) == images.ImageInfo(photo.size, photo.rotation_quarters, photo.mirrored)
    # The reported rotation makes the stored raster upright.
    rotated = np.rot90(stored[:, ::-1] if photo.mirrored else stored, -photo.rotation_quarters)
    np.testing.assert_array_equal(rotated, upright)


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        (".jpg", {}, False),
        (".jpg", {"exif": exif(1)}, True),
        (".jpg", {"xmp": b"<x:xmpmeta/>"}, True),
        (".png", {}, True),  # it may stand behind the pixels
        (".tif", {}, True),
    ],
)
def test_where_a_header_rules_exif_out(tmp_path, suffix, options, expected):
    assert images.may_have_exif(save(tmp_path / f"a{suffix}", picture(61, 43), **options)) is expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_colour_tiff_is_made_upright_once(tmp_path, orientation):
    upright = picture(61, 43)
    stored = upright[upright_index(orientation, 43, 61)].astype(np.uint16) * 257
    data = cv2.imencode(".tif", stored[..., ::-1])[1].tobytes()
    (tmp_path / "a.tif").write_bytes(tiff_with_orientation(data, orientation))
    np.testing.assert_array_equal(images.load(tmp_path / "a.tif").pixels, upright)


def test_reduced_and_upright(tmp_path):
    upright = picture(603, 401)
    stored = upright[upright_index(6, 401, 603)]
    photo = images.load(save(tmp_path / "a.jpg", stored, quality=95, exif=exif(6)), 75)
    assert photo.pixels.shape == (50, 75, 3)
    assert photo.size == (603, 401)
    expected = cv2.resize(upright, (75, 50), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(photo.pixels.astype(int), expected, atol=4)


def test_png_exif_behind_the_pixels_is_found_without_decoding(tmp_path):
    stored = picture()
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    data = png(61, 43, 8, 2, rows, png_chunk(b"eXIf", exif(6)[6:]))
    (tmp_path / "a.png").write_bytes(data)
    assert images.probe(tmp_path / "a.png") == images.ImageInfo((43, 61), 1, False)
    np.testing.assert_array_equal(images.load(tmp_path / "a.png").pixels, np.rot90(stored, -1))


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(65535), b"Exif\0\0garbage", exif(6)[:12], b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_senseless_exif_means_upright(tmp_path, block):
    photo = images.load(save(tmp_path / "a.jpg", picture(), exif=block))
    assert (photo.size, photo.rotation_quarters, photo.mirrored) == ((61, 43), 0, False)


@pytest.mark.parametrize("quarters", range(1, 4))
@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("suffix", [".png", ".tif"])  # Pillow itself makes a TIFF upright
def test_extra_rotations(tmp_path, suffix, orientation, quarters):
    path = save(tmp_path / f"a{suffix}", picture(61, 43), exif=exif(orientation))
    plain, photo = images.load(path), images.load(path, extra_quarters=quarters)
    np.testing.assert_array_equal(photo.pixels, np.rot90(plain.pixels, -quarters))
    assert photo.pixels.flags.c_contiguous
    info = images.probe(path).rotated(quarters)
    assert info == images.ImageInfo(photo.size, photo.rotation_quarters, photo.mirrored, quarters)
    assert info.rotated(-quarters) == images.probe(path)
    small = images.load(path, 30, quarters)
    np.testing.assert_array_equal(small.pixels, np.rot90(images.load(path, 30).pixels, -quarters))
    assert small.size == photo.size == info.size


@pytest.mark.parametrize("quarters", range(-4, 5))
def test_points_rotate_with_the_pixels(quarters):
    pixels = picture(7, 5)
    x, y = np.meshgrid(np.arange(7, dtype=np.float32), np.arange(5, dtype=np.float32))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    rotated = np.rot90(pixels, -quarters)
    moved = rotate_points(points, (7, 5), quarters)
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(rotated[moved[:, 1].astype(int), moved[:, 0].astype(int)], pixels.reshape(-1, 3))
    after = rotated.shape[1], rotated.shape[0]
    np.testing.assert_array_equal(rotate_points(moved, after, -quarters), points)
    corners = np.array([[-0.5, -0.5], [6.5, 4.5]], np.float32)
    assert np.sort(rotate_points(corners, (7, 5), quarters), axis=0).tolist() == [
        [-0.5, -0.5],
        [after[0] - 0.5, after[1] - 0.5],
    ]
    assert rotate_points(points[:0], (7, 5), quarters).shape == (0, 2)


# ---- sizes and coordinates ----


def blobs(width: int, height: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Bright spots at known places between the pixels, some by the borders."""
    columns, rows = (np.linspace(4.2 * sigma, side - 4.2 * sigma, n) for side, n in ((width, 5), (height, 4)))
    centers = np.stack(np.meshgrid(columns + 0.3, rows - 0.2), axis=2).reshape(-1, 2)
    x, y = np.arange(width), np.arange(height)
    value = np.full((height, width), 20.0)
    for cx, cy in centers:
        value += 200 * np.exp(-((y - cy) ** 2) / (2 * sigma**2))[:, None] * np.exp(-((x - cx) ** 2) / (2 * sigma**2))
    return np.repeat(np.clip(np.round(value), 0, 255).astype(np.uint8)[..., None], 3, axis=2), centers


@pytest.mark.parametrize(("suffix", "size"), [(".jpg", (1003, 757)), (".jpg", (751, 1207)), (".png", (1003, 757))])
@pytest.mark.parametrize("long_side", [None, 1000, 501, 333, 250, 100])
def test_to_original_is_exact(tmp_path, suffix, size, long_side):
    width, height = size
    factor = max(size) / min(long_side or max(size), max(size))
    sigma = 2.5 + 1.5 * factor
    pixels, centers = blobs(width, height, sigma)
    photo = images.load(save(tmp_path / f"a{suffix}", pixels, quality=95), long_side)
    value = photo.pixels[..., 1].astype(float) - 20
    scale = np.array([photo.pixels.shape[1] / width, photo.pixels.shape[0] / height])
    found = []
    for x, y in (centers + 0.5) * scale - 0.5:
        reach = 4 * sigma * scale
        left, top = np.maximum(np.ceil([x - reach[0], y - reach[1]]), 0).astype(int)
        right, bottom = np.floor([x + reach[0], y + reach[1]]).astype(int) + 1
        window = np.where(value[top:bottom, left:right] > 6, value[top:bottom, left:right], 0)
        rows, columns = np.indices(window.shape)
        found.append([left + (columns * window).sum() / window.sum(), top + (rows * window).sum() / window.sum()])
    error = photo.to_original(np.array(found, np.float32)) - centers
    assert np.abs(error).max() < 0.06 * factor


@pytest.mark.parametrize(("size", "long_side", "shape"), [
    ((1003, 757), 200, (151, 200)),
    ((1003, 757), 1003, (757, 1003)),
    ((1003, 757), 5000, (757, 1003)),
    ((1003, 757), None, (757, 1003)),
    ((757, 1003), 100, (100, 75)),
    ((3001, 16), 30, (1, 30)),
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_long_side_bounds_and_the_picture_is_spanned(tmp_path, size, long_side, shape, suffix):
    photo = images.load(save(tmp_path / f"a{suffix}", picture(*size)), long_side)
    assert photo.pixels.shape == (*shape, 3)
    assert photo.size == size
    corners = np.array([[-0.5, -0.5], [shape[1] - 0.5, shape[0] - 0.5]], np.float32)
    original = photo.to_original(corners)
    assert original.dtype == np.float32
    np.testing.assert_array_equal(original, np.array([[-0.5, -0.5], [size[0] - 0.5, size[1] - 0.5]]))
    assert photo.to_original(np.empty((0, 2), np.float32)).shape == (0, 2)


def test_reduction_keeps_the_mean_of_fine_texture(tmp_path):
    """Area interpolation neither skips nor repeats pixels: noise is averaged away."""
    noise = np.repeat(RNG.integers(0, 256, (801, 1003, 1)).astype(np.uint8), 3, axis=2)
    for suffix in (".jpg", ".png"):
        reduced = images.load(save(tmp_path / f"a{suffix}", noise, quality=95), 100).pixels
        assert reduced.std() < 10  # 74 in the original; blocks of 10 × 10 pixels are averaged
        assert abs(reduced.mean() - noise.mean()) < 1


def test_many_threads(tmp_path):
    paths = [
        save(tmp_path / f"{i}.jpg", np.roll(picture(301, 203), 7 * i, axis=1), exif=exif(i % 8 + 1)) for i in range(8)
    ]
    alone = [images.load(path, 100).pixels for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: images.load(path, 100).pixels, paths * 5))
    for i, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[i % 8])


# ---- what is refused ----


def encoded(suffix: str, pixels: np.ndarray | None = None) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(200, 150) if pixels is None else pixels).save(data, Image.registered_extensions()[suffix])
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"<html>404 Not Found</html>", "not a JPEG, PNG, TIFF, WebP, BMP, AVIF or HEIC file"),
        ("gif.png", b"GIF89a" + bytes(100), "not a JPEG"),
        ("sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "damaged"),
        ("magic.jpg", b"\xff\xd8\xff", "damaged"),
        ("magic.png", b"\x89PNG\r\n\x1a\n", "damaged"),
        ("magic.tif", b"II*\0", "damaged"),
        ("magic.bmp", b"BM", "damaged"),
        ("pixel.png", encoded(".png", picture()[:1, :1]), "1 × 1 pixels are too few"),
        ("pixel.jpg", encoded(".jpg", picture()[:1, :1]), "1 × 1 pixels are too few"),
        ("line.bmp", encoded(".bmp", picture()[:1]), "61 × 1 pixels are too few"),
        ("small.webp", encoded(".webp", picture()[:15]), "61 × 15 pixels are too few"),
        ("bomb.png", png(60000, 60000, 8, 2, b""), "60000 × 60000 pixels are more than"),
    ],
)
def test_header_is_refused_in_one_quiet_sentence(tmp_path, capfd, name, content, reason):
    (tmp_path / name).write_bytes(content)
    for read in (images.load, images.probe, images.may_have_exif):
        with pytest.raises(KitError, match=reason) as error:
            read(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, capfd, suffix, part):
    content = encoded(suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(KitError, match=f"cut{suffix}"):
        images.load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of a damaged directory
def test_truncated_sixteen_bit_colour_is_refused_quietly(tmp_path, capfd):
    for suffix in (".png", ".tif"):
        content = cv2.imencode(suffix, RNG.integers(0, 65536, (40, 50, 3)).astype(np.uint16))[1].tobytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
        with pytest.raises(KitError, match=f"cut{suffix}"):
            images.load(tmp_path / f"cut{suffix}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("long_side", [None, 60])
def test_a_truncated_jpeg_is_used_up_to_its_end(tmp_path, caplog, capfd, long_side):
    texture = cv2.resize(RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8), (320, 240))
    whole = save(tmp_path / "whole.jpg", texture, quality=90)
    content = whole.read_bytes()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        photo = images.load(cut, long_side)
    assert [str(cut) in record.message for record in caplog.records] == [True]
    assert photo.size == (320, 240)
    expected = images.load(whole, long_side).pixels
    rows = len(expected)
    np.testing.assert_array_equal(photo.pixels[: rows * 4 // 10], expected[: rows * 4 // 10])
    assert np.ptp(photo.pixels[rows * 6 // 10 :], axis=(0, 1)).max() < 3 < np.ptp(expected[rows * 6 // 10 :])
    assert capfd.readouterr() == ("", "")


def test_samples_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(KitError, match=r"a\.tif.*32 bits"):
        images.load(tmp_path / "a.tif")


@pytest.mark.parametrize("read", [images.load, images.probe, images.digest])
def test_no_file(tmp_path, read):
    with pytest.raises(KitError, match=r"nothing\.jpg: there is no such file"):
        read(tmp_path / "nothing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(KitError, match=r"folder\.jpg: it is not a file"):
        read(tmp_path / "folder.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".bmp"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_give_a_photo_or_a_kit_error(tmp_path, capfd, suffix):
    content = encoded(suffix, picture(40, 30))
    rng = np.random.default_rng(1)
    path = tmp_path / f"a{suffix}"
    for trial in range(40):
        damaged = bytearray(content)
        where = rng.integers(0, min(len(content), 200 if trial % 2 else len(content)), rng.integers(1, 6))
        for i in where:
            damaged[i] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            photo = images.load(path, 32)
        except KitError:
            continue
        assert photo.pixels.dtype == np.uint8
        assert max(photo.pixels.shape[:2]) <= 32
    assert capfd.readouterr() == ("", "")


def test_digest_is_that_of_the_bytes(tmp_path):
    first, second = tmp_path / "a.jpg", tmp_path / "b.jpg"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    assert images.digest(first) == hashlib.blake2b(b"one", digest_size=16).hexdigest()
    assert images.digest(first) != images.digest(second)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_points_of_the_stored_and_the_upright_image(quarters: int, mirrored: bool) -> None:
    """Every pixel goes where NumPy's rotation of the raster puts it, and comes back."""
    stored = np.arange(15).reshape(3, 5)
    upright = np.rot90(stored[:, ::-1] if mirrored else stored, -quarters)
    info = images.ImageInfo((upright.shape[1], upright.shape[0]), quarters, mirrored, extra_quarters=quarters // 2)
    assert info.stored_size == (5, 3)
    points = np.array([(x, y) for y in range(3) for x in range(5)], np.float32)
    x, y = info.to_upright(points).astype(int).T
    np.testing.assert_array_equal(upright[y, x], stored.ravel())
    back = info.to_stored(info.to_upright(points + np.float32(0.25)))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, points + np.float32(0.25))
