import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fakd.data import folder, read_image
from fakd.data.decoding import decode_raw
from fakd.data.layout import IMAGE_SUFFIXES, Levels
from fakd.inspection import inspect_data
from fakd.inspection.survey import read_header
from stand_ins import message, write_png

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = np.stack([RGB[..., 0]] * 3, axis=-1)
DEEP = RGB.astype(np.uint16) * 257
ALPHA = np.full((6, 8, 1), 9, np.uint8)


def deep_png(pixels, colour):
    return lambda path: write_png(path, 16, colour, [row.astype(">u2").tobytes() for row in pixels])


def tiff(pixels, **options):
    return lambda path: tifffile.imwrite(path, pixels, **options)


def pillow(image, **options):
    return lambda path: image.save(path, **options)


def padded(pixels, last):
    return np.concatenate([pixels, np.full((6, 8, 1), last, pixels.dtype)], axis=-1)


COLOURED = {
    "png": pillow(Image.fromarray(RGB)),
    "with alpha.png": pillow(Image.fromarray(np.dstack([RGB, ALPHA]))),
    "lossless.webp": pillow(Image.fromarray(RGB), lossless=True),
    "bmp": pillow(Image.fromarray(RGB)),
    "gif": pillow(Image.fromarray(RGB).quantize(256)),
    "palette.png": pillow(Image.fromarray(RGB).quantize(256)),
    "see-through palette.png": pillow(Image.fromarray(RGB).quantize(256), transparency=3),
    "16 bits.png": deep_png(DEEP, 2),
    "16 bits with alpha.png": deep_png(padded(DEEP, 7), 6),
    "lzw.tif": pillow(Image.fromarray(RGB), compression="tiff_lzw"),
    "palette.tif": pillow(Image.fromarray(RGB).quantize(256)),
    "planar.tif": tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"),
    "16 bits.tif": tiff(DEEP, photometric="rgb"),
    "16 bits, predicted.TIFF": tiff(DEEP, photometric="rgb", compression="zlib", predictor=True),
    "16 bits, planar.tif": tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig=2),
    "16 bits with alpha.tif": tiff(padded(DEEP, 7), photometric="rgb", extrasamples=[2]),
    "bands not said to be colours.tif": tiff(DEEP, photometric="minisblack", planarconfig=1),
    "big-endian.tif": tiff(DEEP, photometric="rgb", byteorder=">"),
    "bigtiff.tif": tiff(DEEP, photometric="rgb", bigtiff=True),
    "float.tif": tiff(RGB / np.float32(255), photometric="rgb"),
    "float, predicted.tif": tiff(
        RGB / np.float32(255), photometric="rgb", compression="zlib", predictor=True
    ),
    "double.tif": tiff(RGB / 255, photometric="rgb"),
}
UNCOLOURED = {
    "png": pillow(Image.fromarray(GREY[..., 0])),
    "with alpha.png": pillow(Image.fromarray(np.dstack([GREY[..., :1], ALPHA]))),
    "16 bits.png": pillow(Image.fromarray(GREY[..., 0].astype(np.uint16) * 257)),
    "16 bits with alpha.png": deep_png(padded(GREY[..., :1].astype(np.uint16) * 257, 7), 4),
    "16 bits.tif": tiff(GREY[..., 0].astype(np.uint16) * 257),
    "big-endian.tif": tiff(GREY[..., 0].astype(np.uint16) * 257, byteorder=">"),
    "white is zero.tif": tiff(255 - GREY[..., 0], photometric="miniswhite"),
    "white is zero, 16 bits.tif": tiff(
        65535 - GREY[..., 0].astype(np.uint16) * 257, photometric="miniswhite"
    ),
    "float.tif": tiff(GREY[..., 0] / np.float32(255)),
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [*((kind, RGB) for kind in COLOURED), *((kind, GREY) for kind in UNCOLOURED)],
)
def test_one_picture_gives_the_same_pixels_in_every_type_of_file(tmp_path, kind, expected):
    if "predicted" in kind:
        pytest.importorskip("imagecodecs")
    path = tmp_path / (kind if "." in kind else f"plain.{kind}")
    (COLOURED if expected is RGB else UNCOLOURED)[kind](path)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


def test_inks_are_read_as_the_colours_they_print(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).convert("CMYK").save(path)
    assert np.abs(read_image(path).permute(1, 2, 0).numpy() - RGB.astype(int)).max() <= 1


def test_a_tiff_is_turned_as_its_orientation_says(tmp_path):
    for code in range(1, 9):
        path = tmp_path / f"{code}.tif"
        for pixels in (RGB, DEEP):
            tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(274, 3, 1, code, True)])
            turned = read_image(path).permute(1, 2, 0).numpy()
            image = Image.fromarray(RGB)
            exif = image.getexif()
            exif[0x0112] = code
            image.save(tmp_path / "a.png", exif=exif)
            expected = read_image(tmp_path / "a.png").permute(1, 2, 0).numpy()
            assert np.array_equal(turned, expected)


def test_exif_that_cannot_be_parsed_says_nothing(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0x")
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), RGB)


FOUR = np.arange(6 * 8 * 4, dtype=np.uint8).reshape(6, 8, 4)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (tiff(np.full((6, 8), 1.5, np.float32)), ["1.5", "0 to 1", "range:"]),
        (tiff(np.full((6, 8), -0.5, np.float32)), ["-0.5", "range:"]),
        (tiff(np.full((6, 8), np.nan, np.float32)), ["NaN"]),
        (tiff(np.full((6, 8), np.inf, np.float32)), ["infinity"]),
        (tiff(np.full((6, 8), -900, np.int16)), ["int16", "-900", "range:"]),
        (tiff(np.full((6, 8), 70000, np.uint32)), ["uint32", "70000", "range:"]),
        (tiff(np.full((6, 8), 7, np.int8)), ["int8", "range:"]),
        (tiff(FOUR, photometric="rgb", extrasamples=[0]), ["4 bands", "bands: [1, 2, 3]"]),
        (tiff(FOUR, photometric="minisblack", planarconfig=1), ["4 bands"]),
        (tiff(FOUR[..., :2], photometric="minisblack", planarconfig=1), ["2 bands"]),
        (tiff(np.dstack([FOUR, FOUR]), photometric="minisblack", planarconfig=1), ["8 bands"]),
        (tiff(np.zeros((5, 6, 8), np.uint8), photometric="minisblack"), ["5 pages"]),
        (tiff(RGB, photometric="cielab"), ["cielab", "RGB"]),
        (tiff(np.zeros((6, 8), np.complex64)), ["complex64"]),
        (
            pillow(
                Image.new("L", (8, 6)), save_all=True, append_images=[Image.new("L", (8, 6), 9)]
            ),
            ["animation"],
        ),
    ],
)
def test_what_has_no_one_meaning_is_refused(tmp_path, write, words):
    path = tmp_path / ("a.png" if "animation" in words else "a.tif")
    write(path)
    text = message(lambda: read_image(path))
    assert str(path) in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "animation" in message(lambda: read_image(path))


def test_smaller_copies_beside_the_picture_are_no_pages(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(DEEP, photometric="rgb")
        writer.write(DEEP[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), RGB)


def test_range_and_bands_say_what_numbers_mean(tmp_path):
    path = tmp_path / "a.tif"

    def shown(pixels, levels, **options):
        tifffile.imwrite(path, pixels, **options)
        return read_image(path, levels)[:, 0].T.tolist()

    twelve = np.array([[0, 15, 16, 4095, 5000]], np.uint16)
    twelve_bits = Levels(range=(0.0, 4095.0))
    expected = [[level] * 3 for level in (0, 0, 1, 255, 255)]
    assert shown(twelve, twelve_bits) == expected
    png_path = tmp_path / "a.png"
    write_png(png_path, 16, 2, [np.stack([twelve[0]] * 3, axis=-1).astype(">u2").tobytes()])
    assert read_image(png_path, twelve_bits)[:, 0].T.tolist() == expected
    hounsfield = np.array([[-2000, -1000, 0, 1000]], np.int16)
    scanned = shown(hounsfield, Levels(range=(-1000.0, 1000.0)))
    assert [grey[0] for grey in scanned] == [0, 0, 128, 255]
    many = np.array([[[1, 2, 3, 4, 5]]], np.uint8)
    options = {"photometric": "minisblack", "planarconfig": 1}
    assert shown(many, Levels(bands=(5, 3, 1)), **options) == [[5, 3, 1]]
    assert shown(many, Levels(bands=(4,)), **options) == [[4, 4, 4]]
    text = message(lambda: shown(many, Levels(bands=(6,)), **options))
    assert "has 5 bands" in text
    assert "band 6" in text


def test_the_description_says_it_for_all_images_of_a_set(made_up):
    for split in ("train", "val"):
        (made_up.root / f"{split}/images/a.png").unlink()
        high = 4095 if split == "train" else 2048
        tifffile.imwrite(
            made_up.root / f"{split}/images/a.tif", np.full((6, 8, 4), high, np.uint16)
        )

    made_up.describe("classes: [road, car]\nbands: [1, 2, 4]\n")
    data = folder(made_up.root)
    assert data.train[0].image.unique().tolist() == [15]
    (remark,) = data.remarks
    for words in ("4095", "65535", "nearly black", "range: [0, 4095]"):
        assert words in remark
    before = data.fingerprint()
    made_up.describe("classes: [road, car]\nbands: [1, 2, 4]\nrange: [0, 4095]\n")
    data = folder(made_up.root)
    # One range for all: a dark image stays darker than a bright one.
    assert data.train[0].image.unique().tolist() == [255]
    assert data.val[0].image.unique().tolist() == [128]
    assert data.remarks == ()
    assert data.fingerprint() != before


@pytest.mark.parametrize(
    "lines", ["range: 4095", "range: [9, 9]", "range: [a, b]", "range: [.nan, 1]"]
)
def test_a_range_that_is_none_is_refused(made_up, lines):
    made_up.describe(f"classes: [road, car]\n{lines}\n")
    assert "range: [0, 4095]" in message(lambda: folder(made_up.root))


@pytest.mark.parametrize("lines", ["bands: 3", "bands: [0]", "bands: [1, 2]", "bands: [a]"])
def test_bands_that_are_none_are_refused(made_up, lines):
    made_up.describe(f"classes: [road, car]\n{lines}\n")
    assert "bands" in message(lambda: folder(made_up.root))


def promising(path, side):
    """Write a file whose header promises a square picture that does not follow."""
    if path.suffix == ".png":
        Image.new("L", (1, 1)).save(path)
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        tifffile.imwrite(path, np.full((99, 98), 0.5, np.float32), metadata=None)
        with tifffile.TiffFile(path) as tiff_file:
            tags = tiff_file.pages[0].tags
            places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
        content = bytearray(path.read_bytes())
        for place in places:
            content[place : place + 4] = struct.pack("<I", side)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_header_that_promises_too_many_pixels_is_refused(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    promising(path, 50_000)
    text = message(lambda: read_image(path))
    assert str(path) in text
    assert "FAKD_MAX_PIXELS" in text
    monkeypatch.setenv("FAKD_MAX_PIXELS", "47")
    Image.fromarray(RGB).save(tmp_path / "small.png")
    assert "more than 47" in message(lambda: read_image(tmp_path / "small.png"))
    monkeypatch.setenv("FAKD_MAX_PIXELS", "48")
    assert read_image(tmp_path / "small.png").shape == (3, 6, 8)
    monkeypatch.setenv("FAKD_MAX_PIXELS", "many")
    assert "number of pixels" in message(lambda: read_image(tmp_path / "small.png"))


def test_a_tiff_that_holds_more_than_it_promises_is_not_unpacked(tmp_path):
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).random((300, 300), np.float32)
    tifffile.imwrite(path, noise, compression="zlib", rowsperstrip=300, metadata=None)
    with tifffile.TiffFile(path) as tiff_file:
        tag = tiff_file.pages[0].tags["ImageWidth"]
    content = bytearray(path.read_bytes())
    content[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 4)
    path.write_bytes(content)
    assert str(path) in message(lambda: read_image(path))


@pytest.mark.parametrize("pixels", [RGB, DEEP, RGB / np.float32(255)])
def test_damaged_tiffs_are_named(tmp_path, pixels, capfd):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None)
    whole = path.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], whole[:10], b"II*\0"):
        path.write_bytes(content)
        text = message(lambda: read_image(path))
        assert "cannot decode" in text
        assert str(path) in text
    assert capfd.readouterr().err == ""


def test_programs_in_disguise_are_not_run(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n")
    assert "cannot decode" in message(lambda: read_image(path))


def test_what_needs_another_library_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb", compression="zlib")

    def missing(self):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    assert "pip install 'fakd[tiff]'" in message(lambda: read_image(path))


def test_every_listed_suffix_is_read(tmp_path):
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"a{suffix}"
        Image.new("RGB", (8, 6), (200, 200, 200)).save(path)
        assert read_image(path).shape == (3, 6, 8)


@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_that_is_to_be_turned_is_recognised_as_such(made_up, deep):
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    path = made_up.root / "val/images/a.tif"
    (made_up.root / "val/images/a.png").unlink()
    made_up.describe("classes: [road, car]\n")
    tags = [(0x0112, "H", 1, 6, True)]
    kind = np.uint16 if deep else np.uint8
    tifffile.imwrite(path, pixels.astype(kind), photometric="rgb", extratags=tags)
    header = read_header(path, upright=True)
    assert (header.size, header.stored, header.turned) == ((6, 8), (8, 6), True)
    assert decode_raw(path, upright=True).size_before == (8, 6)
    # The mask fits the picture as it is stored.
    assert "after EXIF rotation" in message(lambda: folder(made_up.root).val[0])
    made_up.mask("val/masks/a.png", np.zeros((8, 6), np.uint8))
    assert folder(made_up.root).val[0].image.shape == (3, 8, 6)


def test_a_range_that_images_do_not_have_is_refused_or_said(made_up):
    text = "classes: [road, car]\nrange: [0, {}]\n"
    made_up.describe(text.format(4095))
    error = message(lambda: folder(made_up.root).val[0])
    assert "values from 0 to 255, but range: [0, 4095] in the description says" in error
    for white, words in ((9, "outside range: [0, 9]"), (200, "")):
        made_up.describe(text.format(white))
        found = [text for _, text in inspect_data(made_up.root).findings if "range:" in text]
        assert bool(found) == bool(words)
        assert all(words in text for text in found)
    for split in ("train", "val"):
        made_up.image(f"{split}/images/a.png", np.full((6, 8, 3), 3, np.uint8))
    found = [text for _, text in inspect_data(made_up.root).findings if "range:" in text]
    assert found
    for text in found:
        assert "images hold values up to 3" in text
        assert "nearly black with range: [0, 200]" in text


def test_lists_may_spell_paths_in_any_way(made_up):
    for name in ("sub/b", "c"):
        made_up.pair("val", name, np.zeros((6, 8), np.uint8))
    where = "{images: 'val/images/{name}.png', masks: 'val/masks/{name}.png', list: l.txt}"
    made_up.describe(f"classes: [road, car]\nval: {where}\n")
    made_up.list("l.txt", "./c", "sub//b", "c", "sub/./b")
    data = folder(made_up.root)
    assert [data.val.name(index) for index in range(len(data.val))] == ["c", "sub/b"]
