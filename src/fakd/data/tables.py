"""Images in a table of Hugging Face's datasets, memory-mapped and read row by row."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fakd.data.description import TABLE
from fakd.data.packed import Packed, PackedFolder, Place
from fakd.data.unlabelled import Block
from fakd.errors import InputError
from fakd.imports import require_library


class Row(Packed):
    """The image of a row."""

    def __init__(self, table: Any, number: int, title: str) -> None:
        self._table, self._number, self._title = table, number, title

    def __str__(self) -> str:
        return self._title

    def read_bytes(self) -> bytes:
        """Read the encoded image."""
        (content,) = self._table[self._number].values()
        if content is None:
            raise FileNotFoundError(self._title)
        found = content["bytes"]
        return Path(content["path"]).read_bytes() if found is None else bytes(found)


class Table(Block):
    """The images of a data set written by ``Dataset.save_to_disk``, one per row.

    Rows are memory-mapped, so a table of any size opens at once. Names are the folder's, followed
    by the row number; rows keep their order.

    Args:
        path: The folder of one split.

    Raises:
        InputError: the library is missing, or the folder has no such table, or no images.
    """

    def __init__(self, path: Path) -> None:
        found, images = _open_table(path)
        if len(images) != 1:
            raise InputError(
                f"{path} must have one image column, got {', '.join(images) or 'none'} among "
                f"{', '.join(found.features)}; select the columns, and save it again"
            )
        self._table = _column(found, images[0])
        self._path, self._fingerprint = path, str(found._fingerprint)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, place: int) -> str:
        """Return folder and row."""
        return f"{self._path.name}/{place:08d}"

    def image(self, place: int) -> Place:
        """Return an image's row."""
        return Row(self._table, place, f"{self._path} row {place}")

    def stamp(self, place: int) -> str:
        """Return the table's fingerprint, which is equal in copies."""
        return self._fingerprint


class TableFolder(PackedFolder):
    """The images of such a table as files of a folder: ``ROW.COLUMN``.

    Args:
        path: The folder of one split.

    Raises:
        InputError: as for `Table`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found, images = _open_table(path)
        self._columns = {name: _column(found, name) for name in images}

    def __str__(self) -> str:
        return f"{TABLE}{self._path}"

    def files(self) -> Sequence[str]:
        """List each image column, row by row."""
        return [
            f"{row:08d}.{name}"
            for name, table in self._columns.items()
            for row in range(len(table))
        ]

    def __truediv__(self, file: str) -> Packed:
        """Return an image's row."""
        row, _, name = file.partition(".")
        return Row(self._columns[name], int(row), f"{self._path} row {int(row)} {name}")


def _open_table(path: Path) -> tuple[Any, list[str]]:
    """Open a table, and list its image columns."""
    require_library("datasets")
    datasets = import_module("datasets")
    if not path.is_dir():
        raise InputError(
            f"expected a folder written by Dataset.save_to_disk, but {path} is not a folder; check "
            "the path"
        )
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read by datasets: {reason}") from error
    if not isinstance(found, datasets.Dataset):
        raise InputError(f"{path} holds several splits, {', '.join(found)}; name one of them")
    images = [key for key, each in found.features.items() if isinstance(each, datasets.Image)]
    return found, images


def _column(table: Any, name: str) -> Any:
    """Select one column, its images as encoded bytes."""
    image = import_module("datasets").Image(decode=False)
    return table.select_columns([name]).cast_column(name, image)
