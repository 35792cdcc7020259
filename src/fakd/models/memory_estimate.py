"""Memory that a network needs for images of a size, estimated before it runs."""

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
"""Upper bound of a network's memory as a multiple of its images', 12 bytes per pixel in float32.

It is 640 for PSPNet-ResNet-101.
"""


class _TensorBytes(TorchDispatchMode):
    """Tracks the bytes of all live tensors, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count its results."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _release(self, size: int) -> None:
        self.now -= size


def peak_bytes(network: nn.Module, images: Tensor) -> int:
    """Measure the peak memory of a forward pass without gradient, in bytes, weights excluded.

    Args:
        network: on the device of the images, which may be meta.
        images: ``[batch, 3, height, width]``.
    """
    held = _TensorBytes()
    with torch.no_grad(), held:
        network(images)
    return held.most


def structure_of(network: nn.Module) -> nn.Module:
    """Copy a network to the meta device, without its values; the original is unchanged."""
    known: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().to("meta"), requires_grad=each.requires_grad)
        for each in network.parameters()
    }
    known |= {id(each): each.detach().to("meta") for each in network.buffers()}
    return copy.deepcopy(network, known)


def bytes_of_image(network: nn.Module, size: tuple[int, int], learns: bool) -> int:
    """Estimate a network's memory for one image, the image excluded, as described in docs/cost.md.

    Args:
        network: on any device; it is not run itself.
        size: height and width.
        learns: count activations kept for the gradient instead of the peak of a forward pass.

    Returns:
        Bytes in float32; 0 if the network cannot run on the meta device.
    """
    images = torch.empty(2, 3, *size, device="meta")
    try:
        structure = structure_of(network)
        if learns:
            return activation_bytes(structure.train(), images) // 2
        return peak_bytes(structure.eval(), images[:1])
    except Exception:
        # External code may need values or a device, or may not be copyable.
        return 0


def require_image_memory(
    count: int,
    size: tuple[int, int],
    device: torch.device,
    remedy: str,
    learner: nn.Module | None = None,
    asked: Iterable[nn.Module] = (),
    half: bool = False,
) -> None:
    """Refuse images for which memory does not suffice, by the formula of docs/cost.md.

    Args:
        count: images at a time.
        size: their height and width.
        device: device that they are processed on.
        remedy: how to need less memory.
        learner: a network that is trained.
        asked: networks that run without gradient, one after the other.
        half: networks compute in 16 bits.

    Raises:
        InputError: says how much is needed, how much is free, and how many images that suffices
            for.
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
