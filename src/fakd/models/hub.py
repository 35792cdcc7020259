"""Fetching a backbone's ImageNet weights from timm's hub, or saying quickly that it cannot be."""

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import timm

from fakd.errors import InputError
from fakd.models.backbones import Architecture

FILE = "model.safetensors"

TIMEOUT = 5.0
"""Seconds to wait for the hub before saying that it cannot be reached."""


def fetch(architecture: Architecture, instead: str) -> Path:
    """Return the hub's file for a backbone, from the local cache if it is there.

    Args:
        architecture: which backbone, and which of its weights.
        instead: what the user can do without the hub, for the error.
    """
    trained = None
    if architecture.weights is not None:
        trained = timm.get_pretrained_cfg(architecture.full_name)
    repository = trained.hf_hub_id if trained is not None else None
    if not repository:
        raise InputError(
            "weights 'imagenet' do not exist at timm's hub for "
            f"{architecture.describe()}; {instead}"
        )
    cached = huggingface_hub.try_to_load_from_cache(repository, FILE)
    if isinstance(cached, str):
        return Path(cached)
    failure = InputError(
        f"weights 'imagenet' must come from timm's hub ({repository}), which cannot be reached; "
        f"{instead}"
    )
    if not is_reachable():
        raise failure
    try:
        return Path(huggingface_hub.hf_hub_download(repository, FILE))
    except OSError as error:
        raise failure from error


def is_reachable() -> bool:
    """Ask the hub once, briefly: its own client would retry for most of a minute."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
