from pathlib import Path

import numpy as np
import pytest
from PIL import Image


class MadeUpFolder:
    """Writes miniature data sets; each image is 8 wide and 6 high unless it says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def describe(self, text: str, name: str = "dataset.yaml") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def image(self, name: str, pixels: np.ndarray | None = None, size=(6, 8)) -> Path:
        return self._save(name, np.full((*size, 3), 99, np.uint8) if pixels is None else pixels)

    def mask(self, name: str, pixels: np.ndarray) -> Path:
        return self._save(name, pixels)

    def pair(self, split: str, name: str, mask: np.ndarray) -> None:
        self.image(f"{split}/images/{name}.png", size=mask.shape[:2])
        self.mask(f"{split}/masks/{name}.png", mask)

    def list(self, name: str, *names: str) -> Path:
        return self.describe("".join(f"{line}\n" for line in names), name)

    def _save(self, name: str, pixels: np.ndarray) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Keeps the lists of test folders out of the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FAKD_CACHE", str(folder))
    return folder


@pytest.fixture
def made_up(tmp_path):
    """A labelled folder with two classes and one sample per split."""
    data = MadeUpFolder(tmp_path / "data")
    data.describe("classes: [road, car]\n")
    for split in ("train", "val"):
        data.pair(split, "a", np.tile(np.array([0, 1], np.uint8), (6, 4)))
    return data
