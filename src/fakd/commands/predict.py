"""`fakd predict`: masks and overlays for a file or a folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakd
from fakd import signals
from fakd.console import open_console, remark
from fakd.data.layout import Levels, read_levels
from fakd.data.scan import files_below
from fakd.errors import InputError, count_noun, list_some, require_kinds
from fakd.files import expand_user
from fakd.runs.folder import differences, read_json, write_json
from fakd.settings import Inference, InferenceOverrides
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from torch import Tensor

_BEGUN = "unfinished.json"
"""Next to the masks: the settings that they are made with, until all are done."""


def predict(
    network: "fakd.Segmenter | str | Path | Any",
    images: Path,
    out: Path,
    overlays: bool = True,
    inference: InferenceOverrides = None,
    levels: Levels = Levels(),
    accelerator: str = "auto",
    overwrite: bool = False,
) -> int:
    """Segment an image, a folder of images or a video with a finished run or weight file.

    Every image gives ``out/masks/NAME.png``, a palette PNG whose pixel values are class ids (16-bit
    grey for more than 256 classes), and ``out/overlays/NAME.jpg``, the image tinted with the class
    colours. Unreadable images are listed at the end; all others are processed. A video gives
    ``out/masks/NAME/000001.png`` and so on, ``out/overlays/NAME.mp4``, ``out/coloured/NAME.mp4``
    and ``out/shares/NAME.jsonl``, the class shares of every frame. The same command resumes after
    an interruption; a video starts over.

    Args:
        network: a finished run, a weight file, an exported file, or any network.
        images: an image, a folder, searched with its subfolders, or a video.
        out: folder to write to, outside the images; created if missing.
        overlays: also write the tinted images.
        inference: how images are shown to the network; as in its training, but for what is given.
        levels: how pixel values are interpreted; by default as in the network's training.
        accelerator: cpu, cuda, mps, or auto for the best one present.
        overwrite: replace masks that are already there.

    Returns:
        The number of images, or frames, segmented.

    Raises:
        InputError: no image can be read, or files exist that may not be overwritten.
        ChildProcessError: some images cannot be read; the others are segmented.
        KeyboardInterrupt, SystemExit: it was stopped by a signal.
    """
    require_kinds(predict, locals())
    # Imported here to keep `fakd predict --help` fast.
    import torch

    from fakd.inference import (
        batch_by_size,
        inference_remark,
        predict_classes,
        resolve_inference,
    )
    from fakd.report.figures import overlay, save_mask, save_picture
    from fakd.report.video import ENDINGS
    from fakd.training.start import pick_device

    network = fakd.models.open_network(network)
    palette = network.palette or fakd.data.default_palette(network.classes)
    inference = resolve_inference(network, inference)
    images, out = expand_user(images), expand_user(out)
    if images.suffix.lower() in ENDINGS and images.is_file():
        return _video(network, images, out, overlays, inference, palette, accelerator, overwrite)
    files, others = fakd.data.image_files(images), []
    root = images if images.is_dir() else images.parent
    for place in ((out / kind).resolve() for kind in ("masks", "overlays")):
        inside = images.is_dir() and place.is_relative_to(root.resolve())
        if inside or place == root.resolve():
            raise InputError(
                f"--out {out} is inside the images' folder {root}, so the next call would read the "
                "results as images; choose a folder outside it"
            )
    if images.is_dir():
        others = sorted({root / file for file in files_below(images)}.difference(files))
    if levels == Levels():
        levels = read_levels(network.extra.get("levels", {}), images)
    masks = [out / "masks" / file.relative_to(root).with_suffix(".png") for file in files]
    made: dict[str, Any] = {
        "network": _identity(network),
        "images": str(images.resolve()),
        "inference": inference.views(),
        "levels": asdict(levels),
        "overlays": overlays,
    }
    made = json.loads(json.dumps(made))  # JSON turns tuples into lists
    done = _written_earlier(files, masks, out / _BEGUN, made, overwrite)
    pairs = [pair for pair in zip(files, masks, strict=True) if pair[1] not in done]
    device = pick_device(accelerator)
    network = network.to(device).eval()
    console, unread = open_console(), list[InputError]()
    for note in (*network.remarks, inference_remark(network, inference)):
        if note:
            remark(console, note)

    def write(image: "Tensor", classes: "Tensor", file: Path, mask: Path) -> None:
        if overlays:
            tinted = out / "overlays" / file.relative_to(root).with_suffix(".jpg")
            save_picture(tinted, overlay(image, classes, palette))
        # Last, since an existing mask marks its image as done.
        save_mask(mask, classes, palette)

    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    ahead = inference.batch_size

    def read() -> Iterator[tuple["Tensor", Path, Path]]:
        reads = [reader.submit(fakd.data.read_image, file, levels) for file, _ in pairs[:ahead]]
        for count, (file, mask) in enumerate(pairs):
            if signals.received_signal():
                return
            display.advance(len(done) + count + 1)
            for following, _ in pairs[count + ahead : count + ahead + 1]:
                reads.append(reader.submit(fakd.data.read_image, following, levels))
            try:
                image = reads.pop(0).result()
            except InputError as error:
                unread.append(error)
            else:
                yield image, file, mask

    # One batch is read and another written while the network runs on a third.
    with signals.listening(), StepProgress(console, "predict", len(files)) as display:
        with reader, writer:
            going: list[Future[None]] = []
            for group in batch_by_size(read(), inference.batch_size, lambda each: each[0].shape):
                if signals.received_signal():
                    break
                shown = torch.stack([image for image, _, _ in group]).to(device)
                found = predict_classes(network, shown, inference).cpu()
                for each in going:
                    each.result()
                if not (going or done):
                    write_json(out / _BEGUN, made)
                going = [
                    writer.submit(write, image, classes, file, mask)
                    for (image, file, mask), classes in zip(group, found, strict=True)
                ]
            for each in going:
                each.result()
        if signals.received_signal():
            there = sum(mask.is_file() for mask in masks)
            kept = f"after {there} of {len(files)} images; the same command resumes there"
            raise signals.stop_exception(
                signals.received_signal(),
                f"stopped by {signals.signal_name(signals.received_signal())} {kept}",
            )
    (out / _BEGUN).unlink(missing_ok=True)
    if len(unread) == len(files):
        raise unread[0]
    said = f"{count_noun(len(files) - len(unread), 'image')} segmented into {out}"
    if done:
        said += f", {len(done)} of them before this command was stopped"
    if others:
        said += (
            f"; {count_noun(len(others), 'file')} of other kinds left out ({list_some(others, 3)})"
        )
    console.print(said, soft_wrap=True, markup=False)
    if unread:
        raise ChildProcessError(
            f"{len(unread)} of {len(files)} images left out: {list_some(unread, 3)}"
        )
    return len(files)


def _identity(network: "fakd.Segmenter") -> str:
    """Identify a network by a hash of its weights or of its exported file."""
    from fakd.training.start import fingerprint

    told = (getattr(each, "digest", None) for each in network.modules())
    return next(filter(None, told), None) or fingerprint(network)


def _written_earlier(
    files: Sequence[Path],
    masks: Sequence[Path],
    begun: Path,
    made: Mapping[str, Any],
    overwrite: bool,
) -> set[Path]:
    """Find the masks that the same command made before it was stopped.

    Raises:
        InputError: there are masks of another or of a finished command, and ``overwrite`` is false.
    """
    present = [mask for mask in masks if mask.exists()]
    if not present:
        return set()
    changed = ""
    if begun.is_file():
        try:
            before = read_json(begun)
            changed = next((f", made with {each}" for each in differences(before, made)), "")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            changed = f", and {begun} cannot be read ({error})"
        if not changed:
            since = begun.stat().st_mtime
            # An image that has changed since is processed again.
            return {
                mask
                for file, mask in zip(files, masks, strict=True)
                if mask.exists() and mask.stat().st_mtime >= max(since, file.stat().st_mtime)
            }
    if overwrite:
        return set()
    raise InputError(
        f"{present[0]} exists ({len(present)} of {len(files)} masks do){changed}; choose another "
        "--out or give --overwrite true"
    )


def _video(
    network: "fakd.Segmenter",
    video: Path,
    out: Path,
    overlays: bool,
    inference: Inference,
    palette: Any,
    accelerator: str,
    overwrite: bool,
) -> int:
    """Segment a video frame by frame."""
    from fakd.inference import inference_remark
    from fakd.report.video import results, segment_video
    from fakd.training.start import pick_device

    present = [path for path in results(video, out, overlays) if path.exists()]
    if present and not overwrite:
        raise InputError(f"{present[0]} exists; choose another --out or give --overwrite true")
    if any(path.resolve() == video.resolve() for path in results(video, out, overlays)):
        raise InputError(f"--out {out} would overwrite {video}; choose another folder")
    device, console = pick_device(accelerator), open_console()
    for note in (*network.remarks, inference_remark(network, inference)):
        if note:
            remark(console, note)

    def said(frames: int) -> None:
        if frames % 100 == 0:
            console.print(f"{frames} frames done")
        if signals.received_signal():
            where = f"at frame {frames} of {video}; the same command starts over"
            raise signals.stop_exception(
                signals.received_signal(),
                f"stopped by {signals.signal_name(signals.received_signal())} {where}",
            )

    shown = network.to(device).eval()
    with signals.listening():
        frames = segment_video(shown, video, out, inference, palette, overlays, device, said)
    console.print(f"{frames} frames of {video} segmented into {out}", soft_wrap=True)
    return frames
