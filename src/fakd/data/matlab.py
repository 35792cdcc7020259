"""Label maps in MATLAB files, as the PASCAL Context and SBD annotations are published."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from fakd.errors import InputError


def read_matlab_mask(path: Path) -> Integer[np.ndarray, "height width"]:
    """Read the ids in ``LabelMap`` (PASCAL Context) or ``GTcls.Segmentation`` (SBD).

    Raises:
        InputError: the file is damaged or holds neither.
    """
    # Imported here because nothing but these files needs it, and it takes a while.
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["LabelMap", "GTcls"])
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: it is gone, or a link to nothing") from error
    # SciPy raises whatever its parser stumbles over in a damaged file.
    except Exception as error:
        raise InputError(
            f"cannot decode {path}: it is damaged, incomplete or no MATLAB file before 7.3; "
            "unpack it again"
        ) from error
    try:
        labels = content["LabelMap"] if "LabelMap" in content else _segmentation(content["GTcls"])
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{path} holds neither LabelMap nor GTcls.Segmentation; use the file as published"
        ) from error
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 2 or not labels.size:
        raise InputError(
            f"{path} holds {labels.dtype} of shape {labels.shape}, not a map of class ids; use "
            "the file as published"
        )
    return labels


def _segmentation(structure: np.ndarray) -> np.ndarray:
    labels: np.ndarray = structure[0, 0]["Segmentation"]
    return labels
