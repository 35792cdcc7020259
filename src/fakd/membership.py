"""Which class each pixel of a batch is of, and tables with a row for each class."""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def is_on_host(values: Tensor) -> bool:
    """Return whether values can be read without synchronising with a device."""
    return values.device.type == "cpu"


class Membership:
    """The classes of each image, with a matrix: 1 where a pixel is of a class.

    On a CPU only the classes that the image contains; elsewhere finding these would synchronise
    the device.

    Args:
        rows: The row of a table by class for each pixel; ``classes``, one past the end, if none.
        classes: Number of classes.
        dtype: Of the matrix, that of the tables.
    """

    def __init__(
        self, rows: Int[Tensor, " batch *pixels"], classes: int, dtype: torch.dtype
    ) -> None:
        self.rows, self.classes, self.dtype = rows, classes, dtype
        self.on_host = is_on_host(rows)

    @cached_property
    def _found(self) -> tuple[Int[Tensor, "batch shown"], Float[Tensor, "batch shown pixels"]]:
        rows = self.rows.flatten(1)
        if self.on_host:
            found = [image.unique(return_inverse=True) for image in rows]
            ids = [each for each, _ in found]
            shown = pad_sequence(ids, batch_first=True, padding_value=self.classes)
            places = torch.stack([each for _, each in found])
        else:
            shown = torch.arange(self.classes + 1, device=rows.device).expand(len(rows), -1)
            places = rows
        members = torch.zeros(*shown.shape, rows.shape[1], dtype=self.dtype, device=rows.device)
        return shown, members.scatter_(1, places[:, None], 1.0)

    @property
    def shown(self) -> Int[Tensor, "batch shown"]:
        """The classes of each image, padded with ``classes``."""
        return self._found[0]

    @property
    def members(self) -> Float[Tensor, "batch shown pixels"]:
        """1 where a pixel is of a class, else 0."""
        return self._found[1]

    def look_up(
        self, table: Float[Tensor, "classes channels"]
    ) -> Float[Tensor, " batch channels *pixels"]:
        """Look up the table's row of every pixel's class; zeros for pixels without one."""
        padded = F.pad(table, (0, 0, 0, 1))
        if not self.on_host:
            return F.embedding(self.rows, padded).movedim(-1, 1).contiguous()
        # A product with a matrix of few classes is faster than an embedding in both passes.
        found = padded[self.shown].mT @ self.members
        return found.view(len(self.rows), -1, *self.rows.shape[1:])


def look_up(
    table: Float[Tensor, "classes channels"], rows: Int[Tensor, " batch *pixels"]
) -> Float[Tensor, " batch channels *pixels"]:
    """Look up a table's row of every pixel's class once; see `Membership.look_up`."""
    return Membership(rows, len(table), table.dtype).look_up(table)
