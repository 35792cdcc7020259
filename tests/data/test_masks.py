import numpy as np
import pytest
import tifffile
from PIL import Image

from fakd.data import folder
from fakd.inspection.findings import Severity, inspect_data
from stand_ins import message, write_png

IDS = np.array([[0, 1, 2, 2], [2, 1, 0, 0]], np.uint8)
COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
COLOURED = f"classes: [ground, box, ball]\npalette: {COLOURS}\n"
PICTURE = np.array(COLOURS, np.uint8)[IDS]
BLACK_AND_WHITE = "classes: [ground, box]\npalette: [[0, 0, 0], [255, 255, 255]]\n"
GREYS = "classes: [ground, box, ball]\npalette: [[0, 0, 0], [85, 85, 85], [255, 255, 255]]\n"


def indexed(order):
    """The picture as a palette PNG whose colours stand in another order."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[IDS])
    image.putpalette([level for number in order for level in COLOURS[number]])
    return image


def read(made_up, description, mask, name="a.png"):
    (made_up.root / "val/masks/a.png").unlink(missing_ok=True)
    made_up.describe(description)
    path = made_up.root / "val/masks" / name
    if isinstance(mask, Image.Image):
        mask.save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, mask)
    else:
        Image.fromarray(mask).save(path)
    made_up.image("val/images/a.png", size=IDS.shape)
    return folder(made_up.root).val[0].labels.tolist()


@pytest.mark.parametrize(
    "mask",
    [PICTURE, np.dstack([PICTURE, IDS]), indexed([0, 1, 2]), IDS, IDS.astype(np.uint16)],
    ids=["RGB", "RGBA", "palette in order", "grey ids", "16-bit ids"],
)
def test_what_agrees_with_the_description_is_read_whatever_the_type(made_up, mask):
    assert read(made_up, COLOURED, mask) == IDS.tolist()


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0], [1, 0, 2]])
def test_a_palette_against_the_described_colours_is_refused_until_masks_is_said(made_up, order):
    mask = indexed(order)
    text = message(lambda: read(made_up, COLOURED, mask))
    for words in (
        "val/masks/a.png contradicts",
        "its palette shows",
        "masks: colors",
        "masks: ids",
    ):
        assert words in text
    assert read(made_up, COLOURED + "masks: colors\n", mask) == IDS.tolist()
    assert read(made_up, COLOURED + "masks: ids\n", mask) == np.argsort(order)[IDS].tolist()


def test_colours_count_where_indices_are_no_ids(made_up):
    image = Image.fromarray(IDS + 7)
    image.putpalette([0] * 21 + [level for colour in COLOURS for level in colour])
    assert read(made_up, COLOURED, image) == IDS.tolist()


def test_a_palette_of_other_colours_is_refused_but_no_class_may_have_any(made_up):
    with_ignored = np.where(IDS == 1, 255, IDS)
    image = Image.fromarray(with_ignored)
    colours = [level for colour in COLOURS for level in colour]
    image.putpalette(colours + [0] * (3 * 252) + [224, 224, 192])
    assert read(made_up, COLOURED, image) == np.where(IDS == 1, -1, IDS.astype(int)).tolist()
    image.putpalette(colours[:7] + [129, 0] + [0] * (3 * 252) + [224, 224, 192])
    assert "[0, 129, 0], a colour that is not described" in message(
        lambda: read(made_up, COLOURED, image)
    )
    image.putpalette([level for level in range(256) for _ in range(3)])
    assert read(made_up, COLOURED, image) == np.where(IDS == 1, -1, IDS.astype(int)).tolist()


WHITE = (IDS > 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (WHITE * 255, False),
        (np.stack([WHITE * 255] * 3, axis=-1), True),
        (WHITE.astype(bool), True),
        (WHITE.astype(np.uint16) * 65535, False),
    ],
    ids=["grey", "RGB", "1 bit", "16 bits"],
)
def test_white_is_one_class_in_every_type_of_file_or_is_refused(made_up, mask, said):
    if said:
        assert read(made_up, BLACK_AND_WHITE, mask) == WHITE.tolist()
    else:
        text = message(lambda: read(made_up, BLACK_AND_WHITE, mask))
        assert "is an id of no class, but it shows as [255, 255, 255], a colour of box" in text
    assert read(made_up, BLACK_AND_WHITE + "masks: colors\n", mask) == WHITE.tolist()


@pytest.mark.parametrize(
    "text",
    [GREYS, "classes: [a, b, c]\nids: {0: 0, 85: 1, 255: 2}\n", "classes: [a, b, c, d]\n"],
)
def test_greys_of_two_bits_are_ids_or_the_same_greys_as_of_eight(made_up, text):
    made_up.describe(text)
    made_up.image("val/images/a.png", size=(1, 4))
    # Levels 0, 1, 3 and 0 of 3, as a PNG packs them.
    write_png(made_up.root / "val/masks/a.png", 2, 0, [bytes([0b00011100])])
    third = 3 if text.endswith("d]\n") else 2
    assert folder(made_up.root).val[0].labels.tolist() == [[0, 1, third, 0]]


def test_white_of_one_bit_is_255_where_only_that_is_an_id(made_up):
    ids = "classes: [ground, box]\nids: {0: ground, 255: box}\n"
    for mask in (WHITE * 255, WHITE.astype(bool)):
        assert read(made_up, ids, mask) == WHITE.tolist()
        assert read(made_up, ids + "others: ignore\n", mask) == WHITE.tolist()
    assert read(made_up, "classes: [ground, box]\n", WHITE.astype(bool)) == WHITE.tolist()


def test_palettes_that_differ_between_masks_are_refused_without_described_colours(made_up):
    plain = "classes: [ground, box, ball]\n"
    assert read(made_up, plain, indexed([2, 0, 1])) == np.argsort([2, 0, 1])[IDS].tolist()
    made_up.image("val/images/b.png", size=IDS.shape)
    indexed([1, 2, 0]).save(made_up.root / "val/masks/b.png")
    data = folder(made_up.root)
    assert data.val[0].labels is not None
    text = message(lambda: data.val[1])
    for words in (
        "val/masks/b.png shows id 0 as [128, 0, 0]",
        "a.png as [0, 128, 0]",
        "masks: ids",
    ):
        assert words in text
    found = inspect_data(made_up.root).findings
    assert any("shows id" in text and severity is Severity.STOPS for severity, text in found)
    made_up.describe(plain + "masks: ids\n")
    data = folder(made_up.root)
    assert data.val[1].labels.tolist() == np.argsort([1, 2, 0])[IDS].tolist()
    made_up.describe(COLOURED + "masks: colors\n")
    data = folder(made_up.root)
    assert data.val[0].labels.tolist() == data.val[1].labels.tolist() == IDS.tolist()


def shrunk(ids):
    """Grey ids as a palette PNG of those alone, as programs that make files smaller write it."""
    values, indices = np.unique(ids, return_inverse=True)
    image = Image.fromarray(indices.reshape(ids.shape).astype(np.uint8))
    image.putpalette([value for value in values.tolist() for _ in range(3)])
    return image


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("classes: [a, b, c, d]\n", IDS + 1),
        ("classes: [a, b, c]\n", np.where(IDS == 2, 255, IDS).astype(np.uint8)),
        ("classes: [a, b, c]\nids: {0: 0, 1: 1, 2: 2, 7: 2, 9: 1}\n", IDS * 2 + 5),
        ("classes: [a, b]\nids: {0: 0, 255: 1}\nothers: nearest\n", (IDS > 0) * np.uint8(255)),
        (COLOURED, IDS + 1 - IDS // 2),
    ],
    ids=["dense", "void", "gaps", "nearest", "colours"],
)
def test_greys_of_a_palette_that_are_other_ids_are_refused_until_masks_is_said(made_up, text, ids):
    if "7" in text:
        ids = np.where(IDS == 1, 7, np.where(IDS == 2, 9, IDS)).astype(np.uint8)
    error = message(lambda: read(made_up, text, shrunk(ids)))
    for word in ("val/masks/a.png has a palette", "as grey", "is of", "use the grey mask"):
        assert word in error
    index = np.unique(ids, return_inverse=True)[1].reshape(IDS.shape)
    if "nearest" not in text:
        assert read(made_up, text + "masks: ids\n", shrunk(ids)) == index.tolist()


def test_greys_for_the_eye_do_not_hinder_indices(made_up):
    visible = Image.fromarray(IDS)
    visible.putpalette([level for level in (0, 100, 200) for _ in range(3)])
    assert read(made_up, "classes: [a, b, c]\n", visible) == IDS.tolist()


def test_a_proposal_for_black_and_white_palettes_can_be_read(made_up, tmp_path):
    made_up.image("val/images/a.png", size=IDS.shape)
    for split in ("train", "val"):
        for name in "ab":
            made_up.image(f"{split}/images/{name}.png", size=IDS.shape)
            (made_up.root / split / "masks").mkdir(exist_ok=True)
            shrunk((IDS > 0) * np.uint8(255)).save(made_up.root / split / "masks" / f"{name}.png")
    (made_up.root / "dataset.yaml").unlink()
    saved = tmp_path / "saved"
    found = inspect_data(made_up.root, save=saved)
    assert any(
        "shows index 1 as grey 255" in text or "show index 1" in text for _, text in found.findings
    )
    assert "masks: ids" in found.opened.proposal.text
    assert not [text for severity, text in found.findings if severity is Severity.STOPS]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int16", "int32", "uint32", ">u2"])
def test_whole_numbers_of_any_type_are_ids(made_up, dtype):
    for text in (COLOURED, "classes: [ground, box, ball]\n"):
        assert read(made_up, text, IDS.astype(dtype), "a.tif") == IDS.tolist()
    made_up.describe("classes: [ground, box, ball]\n")
    (findings,) = [inspect_data(made_up.root).findings]
    assert not [text for severity, text in findings if severity is Severity.STOPS]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (IDS + np.float32(0.25), ["0.25", "whole numbers"]),
        (np.where(IDS == 1, np.nan, IDS), ["nan", "whole numbers"]),
        (np.where(IDS == 1, np.inf, IDS), ["id inf"]),
        (IDS.astype(np.int16) - 1, ["id -1", "0 to 65535"]),
        (IDS.astype(np.uint32) + 70000, ["id 70002"]),
    ],
)
def test_numbers_that_are_no_ids_are_refused(made_up, mask, words):
    for text in (COLOURED, "classes: [ground, box, ball]\n"):
        error = message(lambda text=text: read(made_up, text, mask, "a.tif"))
        assert "val/masks/a.tif" in error
        for word in words:
            assert word in error
    stops = [
        text for severity, text in inspect_data(made_up.root).findings if severity is Severity.STOPS
    ]
    assert any(words[0] in text for text in stops)


def test_masks_of_many_bands_or_between_colours_are_refused(made_up):
    made_up.describe(COLOURED)
    four = np.zeros((*IDS.shape, 5), np.uint8)
    path = made_up.root / "val/masks/a.tif"
    (made_up.root / "val/masks/a.png").unlink()
    made_up.image("val/images/a.png", size=IDS.shape)
    tifffile.imwrite(path, four, photometric="minisblack", planarconfig=1)
    assert "5 bands" in message(lambda: folder(made_up.root).val[0])
    tifffile.imwrite(path, PICTURE.astype(np.uint16) * 257, photometric="rgb")
    assert folder(made_up.root).val[0].labels.tolist() == IDS.tolist()
    tifffile.imwrite(path, PICTURE.astype(np.uint16) * 256, photometric="rgb")
    assert "8 bits" in message(lambda: folder(made_up.root).val[0])
    made_up.describe("classes: [ground, box, ball]\n")
    tifffile.imwrite(path, np.stack([IDS.astype(np.uint16)] * 3, axis=-1), photometric="rgb")
    assert folder(made_up.root).val[0].labels.tolist() == IDS.tolist()


def test_a_jpeg_is_told_by_what_it_is_not_by_its_name(made_up):
    made_up.image("val/images/a.png", size=IDS.shape)
    for description in ("classes: [ground, box, ball]\n", COLOURED):
        made_up.describe(description)
        Image.fromarray(np.zeros_like(IDS)).save(made_up.root / "val/masks/a.png", format="JPEG")
        assert "has lossy compression" in message(lambda: folder(made_up.root).val[0])


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("more", [{}, {"icc_profile": b"odd", "exif": b"Exif\0\0x"}], ids=len)
def test_webp_is_lossy_or_not_whatever_is_stored_beside_the_picture(made_up, lossless, more):
    made_up.image("val/images/a.png", size=IDS.shape)
    (made_up.root / "val/masks/a.png").unlink(missing_ok=True)
    made_up.describe("classes: [ground, box, ball]\n")
    pixels = np.repeat(IDS[..., None], 3, axis=-1)
    Image.fromarray(pixels).save(made_up.root / "val/masks/a.webp", lossless=lossless, **more)
    if lossless:
        assert folder(made_up.root).val[0].labels.tolist() == IDS.tolist()
    else:
        assert "has lossy compression" in message(lambda: folder(made_up.root).val[0])


def test_smooth_edges_between_greys_are_named(made_up):
    made_up.image("val/images/a.png", size=(1, 256))
    made_up.mask("val/masks/a.png", np.arange(256, dtype=np.uint8)[None])
    for description in ("classes: [ground, box]\n", BLACK_AND_WHITE):
        made_up.describe(description)
        assert "smooth edges" in message(lambda: folder(made_up.root).val[0])
        assert any("smooth edges" in text for _, text in inspect_data(made_up.root).findings)
