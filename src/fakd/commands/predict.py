"""`fakd predict`: masks and overlays for a file or a folder."""

from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console, remark
from fakd.data.layout import Levels, read_levels
from fakd.data.scan import files_below
from fakd.errors import InputError, require_kinds, some
from fakd.files import expanded
from fakd.settings import Inference
from fakd.training.progress import StepProgress


def predict(
    network: "fakd.Segmenter | str | Path | Any",
    images: Path,
    out: Path,
    overlays: bool = True,
    inference: Inference = Inference(),
    levels: Levels = Levels(),
    accelerator: str = "auto",
    overwrite: bool = False,
) -> int:
    """Segment an image or a folder of images with a finished run or weight file.

    Every image gives ``out/masks/NAME.png``, a palette PNG whose pixel values are class ids (of 16
    bits and grey for more than 256 classes), and ``out/overlays/NAME.jpg``, the image tinted with
    the classes' colours. Images that cannot be read are named at the end, all others done.

    Args:
        network: a finished run, a weight file, or any network.
        images: an image or a folder, searched with its subfolders.
        out: folder to write to, outside of the images; created if missing.
        overlays: also write the tinted images.
        inference: how images are shown to the network.
        levels: what the numbers of the images mean; by default as in the network's training.
        accelerator: cpu, cuda, mps, or auto for the best one present.
        overwrite: replace masks that are already there.

    Returns:
        The number of images segmented.

    Raises:
        InputError: there is no image that can be read, or something is in the way.
        ChildProcessError: some images cannot be read; the others are segmented.
    """
    require_kinds(predict, locals())
    # Imported here because `fakd predict --help` need not wait for it.
    from fakd.inference import predict_classes, unlike_training
    from fakd.report.figures import overlay, save_mask, save_picture
    from fakd.training.start import pick_device

    network = fakd.models.open_network(network)
    palette = network.palette or fakd.data.default_palette(network.classes)
    images, out = expanded(images), expanded(out)
    files, others = fakd.data.image_files(images), []
    root = images if images.is_dir() else images.parent
    for place in ((out / kind).resolve() for kind in ("masks", "overlays")):
        inside = images.is_dir() and place.is_relative_to(root.resolve())
        if inside or place == root.resolve():
            raise InputError(
                f"--out {out} would write among the images in {root}, where they are read as such "
                "the next time; choose a folder beside it"
            )
    if images.is_dir():
        others = sorted({root / file for file in files_below(images)}.difference(files))
    masks = [out / "masks" / file.relative_to(root).with_suffix(".png") for file in files]
    present = [mask for mask in masks if mask.exists()]
    if present and not overwrite:
        raise InputError(
            f"{present[0]} exists ({len(present)} of {len(files)} masks do); choose another --out "
            "or give --overwrite true"
        )
    if levels == Levels():
        levels = read_levels(network.extra.get("levels", {}), images)
    device = pick_device(accelerator)
    network = network.to(device).eval()
    console, unread = open_console(), list[InputError]()
    for note in (*network.remarks, unlike_training(network, inference)):
        if note:
            remark(console, note)
    with StepProgress(console, "predict", len(files)) as display:
        for done, (file, mask) in enumerate(zip(files, masks, strict=True), start=1):
            display.advance(done)
            try:
                image = fakd.data.read_image(file, levels)
            except InputError as error:
                unread.append(error)
                continue
            classes = predict_classes(network, image[None].to(device), inference)[0].cpu()
            save_mask(mask, classes, palette)
            if overlays:
                tinted = out / "overlays" / file.relative_to(root).with_suffix(".jpg")
                save_picture(tinted, overlay(image, classes, palette))
    if len(unread) == len(files):
        raise unread[0]
    said = f"{len(files) - len(unread)} images segmented into {out}"
    if others:
        said += f"; {len(others)} files of other kinds left out ({some(others, 3)})"
    console.print(said, soft_wrap=True, markup=False)
    if unread:
        raise ChildProcessError(f"{len(unread)} of {len(files)} images left out: {some(unread, 3)}")
    return len(files)
