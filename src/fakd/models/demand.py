"""How much memory a network takes for images of a size, known before it is asked."""

import copy
import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fakd.memory import free_memory, require_memory
from fakd.models.catalogue import activation_bytes

_MOST = 10_000
"""Times its images in float32, 12 bytes a pixel, that no network keeps; PSPNet-ResNet-101 640."""


class _Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made and not yet let go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _let_go(self, size: int) -> None:
        self.now -= size


def held_bytes(network: nn.Module, images: Tensor) -> int:
    """Count the bytes that a forward pass without gradient holds at its height, weights left out.

    Args:
        network: on the device of the images, which may be meta.
        images: ``[batch, 3, height, width]``.
    """
    held = _Held()
    with torch.no_grad(), held:
        network(images)
    return held.most


def structure_of(network: nn.Module) -> nn.Module:
    """Copy a network without its values, to the meta device; it stays as it is."""
    known: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().to("meta"), requires_grad=each.requires_grad)
        for each in network.parameters()
    }
    known |= {id(each): each.detach().to("meta") for each in network.buffers()}
    return copy.deepcopy(network, known)


def bytes_of_image(network: nn.Module, size: tuple[int, int], learns: bool) -> int:
    """Count what a network takes for one image beyond it, as docs/cost.md has it.

    Args:
        network: may be on any device, and is not asked.
        size: height and width.
        learns: count what is kept for the gradient, not what is held at the height.

    Returns:
        Bytes in float32; 0 where its structure alone cannot be asked.
    """
    images = torch.empty(2, 3, *size, device="meta")
    try:
        structure = structure_of(network)
        if learns:
            return activation_bytes(structure.train(), images) // 2
        return held_bytes(structure.eval(), images[:1])
    except Exception:
        # Anyone's code, which may need values, a device, or not be copied.
        return 0


def require_room(
    count: int,
    size: tuple[int, int],
    device: torch.device,
    remedy: str,
    learner: nn.Module | None = None,
    asked: Iterable[nn.Module] = (),
    half: bool = False,
) -> None:
    """Refuse images that there is too little memory for, by the formula of docs/cost.md.

    Args:
        count: images at a time.
        size: their height and width.
        device: where they are shown.
        remedy: how less would do.
        learner: a network that keeps what its gradient needs.
        asked: networks that only answer, one after the other.
        half: networks compute in 16 bits.

    Raises:
        InputError: says how much is needed, how much is free, and for how many images that does.
    """
    image, free = 12 * math.prod(size), free_memory(device)
    if free is None or _MOST * image * count <= free:
        return
    found = [bytes_of_image(each, size, learns=False) for each in asked]
    weights = 0
    if learner is not None:
        found.append(bytes_of_image(learner, size, learns=True))
        # Gradients and momentum.
        weights = 8 * sum(each.numel() for each in learner.parameters() if each.requires_grad)
    each = image + max(found, default=0) // (2 if half else 1)
    fitting = max(free - weights, 0) // each
    enough = f"that is enough for {fitting:,}; " if fitting else ""
    images = f"{count:,} image{'s' * (count > 1)} of {size[0]:,} x {size[1]:,} pixels"
    require_memory(weights + count * each, f"{images} at a time", enough + remedy, device)
