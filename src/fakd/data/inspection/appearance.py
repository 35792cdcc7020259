"""What to know about formats: JPEG masks, 16 bits, grey or transparent images, EXIF turns."""

from collections.abc import Callable, Iterator
from pathlib import Path

from fakd.data.inspection.facts import SplitFacts
from fakd.data.inspection.finding import Finding, Weight
from fakd.data.inspection.headers import Header


def appearances(split: SplitFacts) -> Iterator[Finding]:
    """Yield what the headers of a split say about its formats."""
    name, images, masks = split.listing.split, split.image_headers, split.mask_headers
    for headers, holds, weight, noun, text in (
        (
            masks,
            lambda header: header.format == "JPEG",
            Weight.STOPS,
            "mask",
            "in JPEG, whose compression changes ids and colours; save masks as PNG",
        ),
        (
            masks,
            lambda header: header.mode.startswith(("I", "F")),
            Weight.TELLS,
            "mask",
            "with 16 bits; fakd reads their ids as they are, but 8 bits are smaller and faster",
        ),
        (
            images,
            lambda header: header.turned,
            Weight.TELLS,
            "image",
            "to be turned by EXIF, which fakd does; see in the picture whether masks are upright",
        ),
        (
            images,
            lambda header: header.mode in ("1", "L", "LA") or header.mode.startswith("I"),
            Weight.TELLS,
            "image",
            "in grey, read as RGB of equal channels; fine if predictions get grey images as well",
        ),
        (
            images,
            lambda header: header.mode in ("RGBA", "PA"),
            Weight.TELLS,
            "image",
            "with transparency, which is dropped; fill the background if it shows in the picture",
        ),
    ):
        if found := _those(headers, holds):
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            what = f"{len(found)} of {len(headers)} {noun}{'s' if len(headers) > 1 else ''}"
            yield Finding(weight, f"{name}: {what} {text} ({found[0]}{others})")


def _those(headers: dict[Path, Header], holds: Callable[[Header], bool]) -> list[Path]:
    return [path for path, header in headers.items() if holds(header)]
