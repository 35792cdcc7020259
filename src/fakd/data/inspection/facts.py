"""What was seen in the files of a split: plain numbers, no judgement."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fakd.data.dataset import Colour
from fakd.data.inspection.headers import Header
from fakd.data.inspection.listing import Listing
from fakd.data.pairs import Pair
from fakd.types import IGNORE

MaskValue = int | Colour
"""What a mask holds at a pixel: an id or a colour."""


@dataclass
class SplitFacts:
    """One split, as far as it was looked at."""

    listing: Listing
    headers: dict[Path, Header] = field(default_factory=dict)
    looked_at: int = 0
    """Pairs whose headers were read."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    sample: list[Pair] = field(default_factory=list)
    """Pairs that were decoded."""
    pixels: Counter[MaskValue] = field(default_factory=Counter)
    """Pixels of each value in the sample's masks."""
    images: Counter[MaskValue] = field(default_factory=Counter)
    """Masks of the sample in which the value occurs."""
    classes: Counter[int] = field(default_factory=Counter)
    """Pixels of each class in the sample's masks, `IGNORE` included."""
    class_images: Counter[int] = field(default_factory=Counter)
    unknown: dict[MaskValue, list[Path]] = field(default_factory=dict)
    """Values that the description does not know, and masks that hold them."""

    @property
    def mismatched(self) -> list[tuple[Pair, Header, Header]]:
        """Pairs whose image and mask differ in size."""
        found = []
        for pair in self.listing.pairs:
            image = self.headers.get(pair.image)
            mask = None if pair.mask is None else self.headers.get(pair.mask)
            if image is not None and mask is not None and image.size != mask.size:
                found.append((pair, image, mask))
        return found

    @property
    def image_headers(self) -> dict[Path, Header]:
        """Headers of the images that could be read."""
        images = (pair.image for pair in self.listing.pairs)
        return {path: self.headers[path] for path in images if path in self.headers}

    @property
    def mask_headers(self) -> dict[Path, Header]:
        """Headers of the masks that could be read."""
        masks = (pair.mask for pair in self.listing.pairs if pair.mask is not None)
        return {path: self.headers[path] for path in masks if path in self.headers}

    @property
    def known_pixels(self) -> int:
        """Pixels of the sample that mean a class or nothing."""
        return sum(self.classes.values())

    @property
    def ignored(self) -> float:
        """Share of ignored pixels among those known."""
        return self.classes[IGNORE] / max(1, self.known_pixels)

    def share(self, number: int) -> float:
        """Share of a class among the labelled pixels."""
        return self.classes[number] / max(1, self.known_pixels - self.classes[IGNORE])
