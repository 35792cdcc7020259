"""Pictures in a table of Hugging Face's datasets, mapped into memory and read row by row."""

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
    """The picture of a row."""

    def __init__(self, table: Any, number: int, title: str) -> None:
        self._table, self._number, self._title = table, number, title

    def __str__(self) -> str:
        return self._title

    def read_bytes(self) -> bytes:
        """Read the file that the picture was."""
        (content,) = self._table[self._number].values()
        if content is None:
            raise FileNotFoundError(self._title)
        found = content["bytes"]
        return Path(content["path"]).read_bytes() if found is None else bytes(found)


class Table(Block):
    """The images of a data set that ``Dataset.save_to_disk`` has written, one for each row.

    Rows are mapped into memory, so a table of any size opens at once, and its order is its own. A
    name is that of the folder, then the number of the row.

    Args:
        path: the folder of one split.

    Raises:
        InputError: the library is missing, or the folder holds no such table, or no images.
    """

    def __init__(self, path: Path) -> None:
        found, images = _opened(path)
        if len(images) != 1:
            raise InputError(
                f"{path} must have one column of images, got {', '.join(images) or 'none'} among "
                f"{', '.join(found.features)}; select the columns, and save it again"
            )
        self._table = _column(found, images[0])
        self._path, self._fingerprint = path, str(found._fingerprint)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, place: int) -> str:
        """Tell folder and row."""
        return f"{self._path.name}/{place:08d}"

    def image(self, place: int) -> Place:
        """Give what reads a row."""
        return Row(self._table, place, f"{self._path} row {place}")

    def stamp(self, place: int) -> str:
        """Tell the table's fingerprint, which its copies share."""
        return self._fingerprint


class TableFolder(PackedFolder):
    """The pictures of such a table as files of a folder: ``ROW.COLUMN``.

    Args:
        path: the folder of one split.

    Raises:
        InputError: as for `Table`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found, images = _opened(path)
        self._columns = {name: _column(found, name) for name in images}

    def __str__(self) -> str:
        return f"{TABLE}{self._path}"

    def files(self) -> Sequence[str]:
        """List each column of pictures, row by row."""
        return [
            f"{row:08d}.{name}"
            for name, table in self._columns.items()
            for row in range(len(table))
        ]

    def __truediv__(self, file: str) -> Packed:
        """Give what reads one of them."""
        row, _, name = file.partition(".")
        return Row(self._columns[name], int(row), f"{self._path} row {int(row)} {name}")


def _opened(path: Path) -> tuple[Any, list[str]]:
    """Open a table, and name its columns of pictures."""
    require_library("datasets")
    datasets = import_module("datasets")
    if not path.is_dir():
        raise InputError(f"expected a folder that Dataset.save_to_disk wrote, {path} is none")
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
    """Take one column, its pictures as the bytes that they are kept in."""
    image = import_module("datasets").Image(decode=False)
    return table.select_columns([name]).cast_column(name, image)
