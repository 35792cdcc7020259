"""Networks of known libraries: opening, preprocessing, class names, and their own file formats."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from torch import nn

from fakd.errors import InputError, list_some
from fakd.imports import LIBRARIES, import_object, require_library
from fakd.models.foreign.sizes import Size
from fakd.models.normalize import IMAGENET_MEAN, IMAGENET_STD
from fakd.models.weights import is_reachable
from fakd.specs import Spec, make_spec, spec_of, to_plain

Order = Literal["rgb", "bgr", "gray"]
_CARRIED = "_fakd_carried"
_OTHERWISE = ("detr", "videomt")
"""Model types of transformers whose masks are of objects or of videos."""


@dataclass(frozen=True)
class NetworkMetadata:
    """Metadata that a network of a library comes with."""

    library: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    order: Order = "rgb"
    told_by: str = ""
    """Source of mean, standard deviation and channel order; empty for the defaults."""
    class_names: tuple[str, ...] | None = None
    sizes: tuple[Size, ...] = ()
    """Image sizes that it may be designed for."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Inputs besides images: token ids, ``[1, length]``."""
    processor: Any = None
    """Image processor that transformers saves with the weights."""
    remarks: tuple[str, ...] = ()


def metadata_of(network: object) -> NetworkMetadata:
    """Read a network's metadata; defaults for a network of an unknown library."""
    if isinstance(known := getattr(network, _CARRIED, None), NetworkMetadata):
        return known
    library = type(network).__module__.partition(".")[0]
    if library not in LIBRARIES:
        return NetworkMetadata("own code")
    if library == "transformers":
        return _transformers_metadata(network, {})
    if library == "segmentation_models_pytorch":
        return _smp_metadata(network)
    if library == "torchvision":
        return _torchvision_metadata(network)
    cfg = getattr(network, "pretrained_cfg", None) or {}
    if not cfg.get("mean"):
        return NetworkMetadata(library)
    size = tuple(cfg.get("input_size") or ())[1:]
    sizes = ((size[0], size[1]),) if len(size) == 2 else ()
    return NetworkMetadata(
        library, tuple(cfg["mean"]), tuple(cfg["std"]), told_by="timm", sizes=sizes
    )


def attach_metadata(network: nn.Module, carried: NetworkMetadata) -> None:
    """Attach metadata to a network."""
    network.__dict__[_CARRIED] = carried


def open_transformers(source: str) -> nn.Module:
    """Open a segmentation network of transformers, with its weights.

    Args:
        source: a folder that ``save_pretrained`` wrote, or an id of the hub.

    Raises:
        InputError: there is no such network, it does not segment, or the hub cannot be reached.
    """
    require_library("transformers")
    import transformers
    from transformers.models.auto import modeling_auto as auto

    where = _reachable(source)
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source, **where)
            kinds = {
                **auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
                **auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
            }
            name = None if config.model_type in _OTHERWISE else kinds.get(config.model_type)
            if name is None:
                raise InputError(
                    f"{source} holds a network of type {config.model_type}, which is not for "
                    f"semantic segmentation of images; choose one of the types "
                    f"{', '.join(sorted(set(kinds) - set(_OTHERWISE)))}"
                )
            # In training mode OneFormer needs texts, for a loss that is not used here.
            extra = {"is_training": False} if config.model_type == "oneformer" else {}
            network, info = getattr(transformers, name).from_pretrained(
                source, output_loading_info=True, **extra, **where
            )
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(f"{source} cannot be opened with transformers: {reason}") from error
        settings, processor = _processor(transformers, source, where)
        inputs: dict[str, Any] = {}
        if config.model_type == "oneformer":
            inputs["task_inputs"] = _task(transformers, source, config, where)
    missing = sorted(info["missing_keys"])
    remarks = []
    if missing:
        remarks.append(
            f"{source} lacks {len(missing)} weights of {name} ({list_some(missing, 3)}), which are "
            "initialised randomly"
        )
    carried = _transformers_metadata(network, settings, inputs, processor, tuple(remarks))
    attach_metadata(network, carried)
    made: nn.Module = network.eval()
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings of transformers."""
    if "transformers" not in sys.modules:
        yield
        return
    logging = sys.modules["transformers"].utils.logging
    # transformers may import torchao, whose types make PyTorch log irrelevant messages.
    tree = getLogger("torch.utils._pytree")
    before = tree.level
    tree.setLevel("ERROR")
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        tree.setLevel(before)
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _reachable(source: str) -> dict[str, bool]:
    """Choose between hub and local cache, once: the hub's client would retry for up to a minute."""
    if Path(source).expanduser().exists():
        return {}
    known = isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json"), str)
    if is_reachable():
        return {}
    if not known:
        raise InputError(f"{source} is not a folder, and the hub cannot be reached; give a folder")
    return {"local_files_only": True}


def _processor(transformers: Any, source: str, where: Any) -> tuple[dict[str, Any], Any]:
    """Read the image processor's settings; some processors cannot be built without the hub."""
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(source, **where)
        return processor.to_dict(), processor
    except Exception:
        try:
            mixin = transformers.image_processing_utils.BaseImageProcessor
            return mixin.get_image_processor_dict(source, **where)[0], None
        except Exception:
            return {}, None


def _task(transformers: Any, source: str, config: Any, where: Any) -> list[list[int]]:
    """Tokenize OneFormer's task input to token ids; padding is 0."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
        length = config.task_seq_len
        options = {"padding": "max_length", "max_length": length, "truncation": True}
        tokens = tokenizer("the task is semantic", **options)
    except Exception as error:
        raise InputError(
            f"{source} has no tokenizer, which OneFormer needs for its task input; save its "
            "processor to the same folder"
        ) from error
    pairs = zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
    return [[number * mask for number, mask in pairs]]


def _transformers_metadata(
    network: Any,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    processor: Any = None,
    remarks: tuple[str, ...] = (),
) -> NetworkMetadata:
    config = network.config
    names = [config.id2label[i] for i in range(len(config.id2label))]
    own = [name for i, name in enumerate(names) if name not in (f"LABEL_{i}", str(i))]
    sides = [getattr(config, "image_size", None), settings.get("size"), settings.get("crop_size")]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if settings:
        factor = 255 * settings.get("rescale_factor", 1 / 255)
        factor = factor if settings.get("do_rescale", True) else 255.0
        wanted = bool(settings.get("do_normalize"))
        mean = tuple(float(x) / factor for x in settings["image_mean"]) if wanted else (0.0,) * 3
        std = tuple(float(x) / factor for x in (settings["image_std"] if wanted else (1.0,) * 3))
    if settings.get("do_reduce_labels"):
        remarks += (
            "its image processor reduces labels (id 0 becomes 'ignore', 1 becomes 0): the data's "
            "first class must be the network's first",
        )
    return NetworkMetadata(
        "transformers",
        mean,
        std,
        "bgr" if settings.get("do_flip_channel_order") else "rgb",
        told_by="its image processor" if settings else "",
        class_names=tuple(names) if own else None,
        sizes=tuple(size for each in sides if (size := _as_size(each)) is not None),
        inputs=inputs or {},
        processor=processor,
        remarks=remarks,
    )


def _as_size(given: Any) -> Size | None:
    if isinstance(given, int):
        return given, given
    if isinstance(given, Mapping) and "height" in given:
        return int(given["height"]), int(given["width"])
    if isinstance(given, Sequence) and len(given) == 2:
        return int(given[0]), int(given[1])
    return None


def open_smp(source: str) -> nn.Module:
    """Open a network saved by segmentation_models_pytorch.

    Args:
        source: a folder that ``save_pretrained`` wrote, or an id of the hub.

    Raises:
        InputError: there is none.
    """
    require_library("segmentation_models_pytorch")
    import segmentation_models_pytorch as smp

    where = _reachable(source)
    at_hub = not where and not Path(source).expanduser().exists()
    try:
        # The hub's client prints that it reads a folder.
        with redirect_stdout(None):
            network: nn.Module = smp.from_pretrained(source)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{source} cannot be opened with segmentation_models_pytorch: {reason}"
        ) from error
    if at_hub:
        attach_metadata(network, _smp_metadata(network, ask=True))
    return network.eval()


def _smp_metadata(network: Any, ask: bool = False) -> NetworkMetadata:
    """Read the encoder's preprocessing from the hub's cache or, with ``ask``, from the hub."""
    config = getattr(network, "config", None) or {}
    name, weights = config.get("encoder_name"), config.get("encoder_weights") or "imagenet"
    size = _as_size(None if config.get("dynamic_img_size") else config.get("img_size"))
    carried = NetworkMetadata("segmentation_models_pytorch", sizes=(size,) if size else ())
    parameters = import_object("segmentation_models_pytorch.encoders.get_preprocessing_params")
    known = import_object("segmentation_models_pytorch.encoders.encoders").get(name, {})
    if name is None:
        return carried
    at = known.get("pretrained_settings", {}).get(weights, {})
    if at and not ask:
        where = at["repo_id"], "config.json"
        if not isinstance(
            huggingface_hub.try_to_load_from_cache(*where, revision=at["revision"]), str
        ):
            return carried
    try:
        found = parameters(name, weights)
    except Exception:
        return carried
    factor = float(found["input_range"][1])
    return NetworkMetadata(
        "segmentation_models_pytorch",
        tuple(each / factor for each in found["mean"]),
        tuple(each / factor for each in found["std"]),
        "bgr" if found["input_space"] == "BGR" else "rgb",
        told_by="its encoder's preprocessing parameters",
        sizes=carried.sizes,
    )


def _torchvision_metadata(network: Any) -> NetworkMetadata:
    spec = spec_of(network)
    weights = spec["init_args"].get("weights") if spec else None
    if spec is None or weights is None:
        return NetworkMetadata("torchvision", told_by="torchvision's own default")
    enumeration = import_object("torchvision.models.get_model_weights")(
        spec["class_path"].rpartition(".")[2]
    )
    chosen = enumeration[str(weights).rpartition(".")[2]]
    transforms = chosen.transforms()
    return NetworkMetadata(
        "torchvision",
        tuple(transforms.mean),
        tuple(transforms.std),
        told_by=f"the transforms of {chosen}",
        class_names=tuple(chosen.meta["categories"]),
    )


def architecture_of(network: nn.Module) -> Spec | None:
    """Write the specification that rebuilds a network of transformers or smp, without weights."""
    root, kind = type(network).__module__.partition(".")[0], type(network).__name__
    config: Any = getattr(network, "config", None)
    if root == "transformers" and config is not None:
        given = config.to_dict()
        for name in [key for key in given if key.startswith("_") or key == "transformers_version"]:
            del given[name]
        given = {
            key: value for key, value in given.items() if key not in ("architectures", "dtype")
        }
        if "use_pretrained_backbone" in given:
            given["use_pretrained_backbone"] = False
        settings = make_spec(f"transformers.{type(config).__name__}", **to_plain(given))
        return make_spec(f"transformers.{kind}", config=settings)
    if root == "segmentation_models_pytorch" and isinstance(config, Mapping):
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        path = f"segmentation_models_pytorch.{kind}"
        return make_spec(path, **dict(to_plain(given)) | {"encoder_weights": None})
    return None


def set_class_count(network: nn.Module, classes: int) -> None:
    """Set the number of classes in a network's own configuration."""
    config: Any = getattr(network, "config", None)
    if isinstance(config, dict) and "classes" in config:
        config["classes"] = classes
    elif hasattr(config, "id2label"):
        config.id2label = {i: f"LABEL_{i}" for i in range(classes)}
        config.label2id = {f"LABEL_{i}": i for i in range(classes)}
        if hasattr(network, "num_labels"):
            network.num_labels = classes  # type: ignore[assignment]


def save_own(network: nn.Module, folder: Path, class_names: Sequence[str] | None) -> bool:
    """Save a network in its own library's format.

    Returns:
        Whether its library has such a format.
    """
    carried = metadata_of(network)
    if carried.library not in ("transformers", "segmentation_models_pytorch"):
        return False
    config: Any = network.config
    if carried.library == "transformers" and class_names is not None:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: i for i, name in enumerate(class_names)}
    with _quiet():
        network.save_pretrained(folder)  # type: ignore[operator]
        if carried.processor is not None:
            carried.processor.save_pretrained(folder)
    return True
