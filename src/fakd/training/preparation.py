"""Preparation of training: freezing, activation checkpointing, weight averaging, checks."""

from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fakd.data import SegmentationData
from fakd.errors import MORE_MEMORY, InputError
from fakd.inference import require_inference_memory
from fakd.models.memory_estimate import require_image_memory
from fakd.settings import Settings
from fakd.training.objective import Objective
from fakd.training.teacher import Teacher
from fakd.types import Segmenter


def synchronize_batch_norms(module: nn.Module) -> None:
    """Let the batch norms below a module use the statistics of all processes' batches.

    Those of PyTorch and timm, whose norms may include an activation; other subclasses may compute
    anything beside, and keep the statistics of their own process.
    """
    # Imported here because only several GPUs need it, and timm is slow to import.
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    for name, child in [*module.named_children()]:
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d):
            module.add_module(name, convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        else:
            synchronize_batch_norms(child)


class Frozen(NamedTuple):
    """What `freeze` froze: batch norms, which must be put into eval mode, and parameters."""

    norms: list[_NormBase]
    parameters: list[nn.Parameter]

    def thaw(self) -> None:
        """Let the parameters learn again."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def freeze(network: nn.Module, names: tuple[str, ...]) -> Frozen:
    """Freeze the named parts of a network.

    A dotted name freezes a module or parameter and everything below it; ``*`` matches anything.

    Raises:
        InputError: no part has such a name.
    """
    norms: list[_NormBase] = []
    learning = [each for each in network.parameters() if each.requires_grad]
    for name in names:
        found = [part for key, part in network.named_modules() if key and fnmatchcase(key, name)]
        single = [weight for key, weight in network.named_parameters() if fnmatchcase(key, name)]
        if not found and not single:
            parts = ", ".join(key for key, _ in network.named_children())
            raise InputError(f"freeze.names: there is no {name} in the network; it has {parts}")
        for part in found:
            part.requires_grad_(False)
            norms += [module for module in part.modules() if isinstance(module, _NormBase)]
        for weight in single:
            weight.requires_grad_(False)
    return Frozen(norms, [each for each in learning if not each.requires_grad])


def checkpoint_activations(network: nn.Module) -> None:
    """Enable activation checkpointing in all parts that support it (timm, transformers).

    Raises:
        InputError: no part does.
    """
    offered = False
    for module in network.modules():
        for name in ("set_grad_checkpointing", "gradient_checkpointing_enable"):
            if callable(switch := getattr(module, name, None)):
                switch()
                offered = True
    if not offered:
        raise InputError(
            f"hardware.checkpoint_activations: no part of {type(network).__name__} supports it; "
            "lower schedule.batch_size or set schedule.accumulate"
        )


def average_of(network: nn.Module, decay: float | None) -> AveragedModel | None:
    """Create an exponential moving average of a network's weights; norm statistics are copied.

    Raises:
        InputError: the decay is not between 0 and 1.
    """
    if decay is None:
        return None
    if not 0 < decay < 1:
        raise InputError(f"expected ema between 0 and 1, such as 0.999, got {decay}")
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    return average.requires_grad_(False)


def require_enough_images(fabric: Fabric, network: nn.Module, settings: Settings) -> None:
    """Run one image, if a step processes one at a time, to see whether batch norms accept it.

    Batch norm over a pooled 1 x 1 map needs at least two. Its running statistics are restored.

    Raises:
        InputError: the network cannot be trained on one image at a time, or there is too little
            memory for it.
    """
    schedule = settings.schedule
    parts = fabric.world_size * schedule.accumulate
    if schedule.batch_size > parts:
        return
    require_image_memory(1, settings.augmentation.crop, fabric.device, MORE_MEMORY, asked=[network])
    kept = [(each, each.clone()) for each in network.buffers()]
    image = torch.zeros(1, 3, *settings.augmentation.crop, device=fabric.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(), fabric.autocast():
            network(image)
    except ValueError as error:
        if "more than 1" not in str(error):
            raise
        raise InputError(
            f"expected schedule.batch_size of at least {2 * parts} with this network, got "
            f"{schedule.batch_size}; batch norm of a pooled 1 x 1 map needs 2 images per device "
            "and per part of schedule.accumulate"
        ) from error
    finally:
        with torch.no_grad():
            for each, before in kept:
                each.copy_(before)


def require_feasible(
    fabric: Fabric, objective: Objective, settings: Settings, teacher: Teacher | None
) -> None:
    """Refuse settings that conflict with each other, the networks or the number of devices.

    Raises:
        InputError: names the setting and its valid values.
    """
    parts = fabric.world_size * settings.schedule.accumulate
    if settings.schedule.batch_size % parts:
        raise InputError(
            f"expected schedule.batch_size to be a multiple of {parts}, the devices times "
            f"schedule.accumulate, got {settings.schedule.batch_size}"
        )
    if settings.schedule.accumulate > 1 and not objective.image_by_image:
        raise InputError(
            "schedule.accumulate needs a distillation that is a mean over images, and this one "
            "compares images with each other or trains a critic on whole batches; leave it at 1"
        )
    if (settings.freeze.until or 0) >= settings.schedule.steps:
        raise InputError(
            f"expected freeze.until before the last of {settings.schedule.steps} steps, got "
            f"{settings.freeze.until}; leave it out to keep what is frozen"
        )
    if settings.hardware.teacher_precision and (
        teacher is None or (teacher.maps and not teacher.members)
    ):
        raise InputError(
            "hardware.teacher_precision needs a teacher that is run in each step; leave it out"
        )
    if settings.freeze.until is not None and fabric.world_size > 1:
        raise InputError("freeze.until works on one device only; leave it out, or use one device")


def require_step_memory(
    fabric: Fabric,
    network: Segmenter,
    data: SegmentationData,
    settings: Settings,
    teacher: Teacher | None = None,
) -> None:
    """Refuse steps, or an evaluation of the first image, that do not fit into memory.

    Raises:
        InputError: names the memory needed, the memory free, and the ways to need less.
    """
    schedule, hardware = settings.schedule, settings.hardware
    require_image_memory(
        max(1, schedule.batch_size // (fabric.world_size * schedule.accumulate)),
        settings.augmentation.crop,
        fabric.device,
        MORE_MEMORY,
        # A compiled network recomputes some activations, so the estimate does not apply.
        learner=None if hardware.compile else network,
        asked=() if teacher is None else _networks_run(teacher),
        half=hardware.precision != "32-true" and hardware.teacher_precision != "fp32",
    )
    require_inference_memory(
        network, data.val[0].image.shape[1:], settings.inference, fabric.device
    )


def _networks_run(teacher: Teacher) -> list[Segmenter]:
    """List the networks that a teacher runs."""
    teacher = getattr(teacher, "inner", teacher)
    several = [one for each in teacher.members.values() for one in _networks_run(each)]
    return several or [teacher.network]
