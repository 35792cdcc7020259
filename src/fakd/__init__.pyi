from . import answers, covariance, data, losses, metrics, models, specs
from .commands.distill import distill
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.predict import predict
from .commands.train import train
from .errors import InputError
from .models import load
from .settings import Hardware, Inference, Intervals, Schedule
from .sharing import from_pretrained, push_to_hub, save_pretrained
from .types import IGNORE, DistillationLoss, LossInputs, Prediction, Segmenter

__version__: str
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
    "answers",
    "covariance",
    "data",
    "distill",
    "evaluate",
    "export",
    "from_pretrained",
    "load",
    "losses",
    "metrics",
    "models",
    "predict",
    "push_to_hub",
    "save_pretrained",
    "specs",
    "train",
]
