"""Distil any semantic-segmentation model into a small, fast one, and know whether it helped."""

from importlib.metadata import version

from fakd import covariance, data, losses, metrics, models
from fakd.commands import distill, evaluate, predict, train
from fakd.errors import InputError
from fakd.inference import Inference
from fakd.models import load
from fakd.training.schedule import Schedule
from fakd.training.settings import Hardware, Intervals
from fakd.types import IGNORE, DistillationLoss, LossInputs, Prediction, Segmenter

__version__ = version("fakd")

__all__ = [
    "IGNORE",
    "DistillationLoss",
    "Hardware",
    "Inference",
    "InputError",
    "Intervals",
    "LossInputs",
    "Prediction",
    "Schedule",
    "Segmenter",
    "covariance",
    "data",
    "distill",
    "evaluate",
    "load",
    "losses",
    "metrics",
    "models",
    "predict",
    "train",
]
