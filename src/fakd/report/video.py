"""Segmentation of videos: masks, a tinted and a coloured video, and class shares."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from fakd.data.description import VIDEOS
from fakd.data.video import rotate_upright
from fakd.errors import InputError
from fakd.files import make_folder, writing
from fakd.imports import require_library
from fakd.inference import predict_classes
from fakd.report.figures import Palette, colour, overlay, save_mask
from fakd.settings import Inference
from fakd.types import Segmenter

ENDINGS = VIDEOS
KINDS = ("masks", "overlays", "coloured", "shares")
_CODEC = "mpeg4"
"""Available in every build of FFmpeg."""


def results(video: Path, out: Path, overlays: bool) -> list[Path]:
    """List the outputs of `segment_video`: a folder of masks, two videos, and a JSON lines file."""
    names = (video.stem, f"{video.stem}.mp4", f"{video.stem}.mp4", f"{video.stem}.jsonl")
    paths = [out / kind / name for kind, name in zip(KINDS, names, strict=True)]
    return paths if overlays else [paths[0], *paths[2:]]


def segment_video(
    network: Segmenter,
    video: Path,
    out: Path,
    inference: Inference,
    palette: Palette,
    overlays: bool,
    device: torch.device,
    done: Callable[[int], None],
) -> int:
    """Segment a video, with one frame in memory at a time.

    ``out/masks/NAME/000001.png`` and so on hold class ids, ``out/overlays/NAME.mp4`` the tinted and
    ``out/coloured/NAME.mp4`` the coloured frames, ``out/shares/NAME.jsonl`` time in seconds and the
    share of every class, one frame per line. The outputs appear together when all are complete.

    Args:
        network: On ``device``, in evaluation mode.
        video: Any file that FFmpeg decodes.
        out: The output folder.
        inference: How frames are fed to the network.
        palette: One colour per class.
        overlays: Whether to write the tinted video.
        device: The network's device.
        done: Called with the number of frames done.

    Returns:
        The number of frames.

    Raises:
        InputError: PyAV is missing, or the file is not a video that can be decoded.
    """
    require_library("av")
    av: Any = import_module("av")
    names = network.class_names or tuple(map(str, range(network.classes)))
    there = out.exists()
    make_folder(out)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".video-") as folder, writing(out):
            try:
                with av.open(str(video)) as source:
                    frames = _segment(
                        av, source, network, Path(folder), inference, palette, names, overlays,
                        device, done,
                    )  # fmt: skip
            except (av.FFmpegError, IndexError) as error:
                if isinstance(error, OSError) and not isinstance(error, av.InvalidDataError):
                    raise
                raise InputError(f"{video} cannot be decoded as a video: {error}") from error
            if frames == 0:
                raise InputError(f"{video} has no frames")
            for path in results(video, out, overlays):
                make_folder(path.parent)
                if path.is_dir():
                    shutil.rmtree(path)
                os.replace(Path(folder) / path.parent.name, path)
    except BaseException:
        if not there:
            with suppress(OSError):
                out.rmdir()
        raise
    return frames


def _segment(
    av: Any,
    source: Any,
    network: Segmenter,
    folder: Path,
    inference: Inference,
    palette: Palette,
    names: Sequence[str],
    overlays: bool,
    device: torch.device,
    done: Callable[[int], None],
) -> int:
    stream, number = source.streams.video[0], 0
    rate = stream.average_rate or 25
    make_folder(folder / "masks")
    painters: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {}
    painters["coloured"] = lambda image, classes: colour(classes, palette)
    if overlays:
        painters["overlays"] = lambda image, classes: overlay(image, classes, palette)
    videos = {kind: _Video(av, folder / kind, rate) for kind in painters}
    with open(folder / "shares", "w", encoding="utf-8") as shares:
        for number, frame in enumerate(source.decode(stream), start=1):
            image = torch.from_numpy(rotate_upright(frame)).permute(2, 0, 1)
            classes = predict_classes(network, image[None].to(device), inference)[0].cpu()
            save_mask(folder / "masks" / f"{number:06d}.png", classes, palette)
            for kind, paint in painters.items():
                videos[kind].add(paint(image, classes))
            counts = classes.flatten().bincount(minlength=len(names)).tolist()
            found = {
                name: round(n / classes.numel(), 5)
                for name, n in zip(names, counts, strict=True)
                if n
            }
            time = None if frame.time is None else round(float(frame.time), 4)
            shares.write(json.dumps({"time": time, "shares": found}) + "\n")
            done(number)
    for each in videos.values():
        each.close()
    return number


class _Video:
    """A video that is written frame by frame."""

    def __init__(self, av: Any, path: Path, rate: Any) -> None:
        self._av, self._rate = av, rate
        self._stream: Any = None
        self._file = av.open(str(path), "w", format="mp4")

    def add(self, picture: torch.Tensor) -> None:
        """Encode an image [3, height, width]; odd sides lose one pixel, as MPEG-4 requires."""
        height, width = (side // 2 * 2 for side in picture.shape[1:])
        if self._stream is None:
            self._stream = self._file.add_stream(_CODEC, rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt, self._stream.bit_rate = "yuv420p", 8 * width * height
        pixels = picture[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush the encoder and close the file."""
        if self._stream is not None:
            self._file.mux(self._stream.encode(None))
        self._file.close()
