"""The commands: one function per file, whose signature is its flags and its recipe."""

from fakd.commands.check import check
from fakd.commands.compare import compare
from fakd.commands.convert import convert
from fakd.commands.demo import demo
from fakd.commands.distill import distill
from fakd.commands.evaluate import evaluate
from fakd.commands.models import models
from fakd.commands.predict import predict
from fakd.commands.report import report
from fakd.commands.tables import tables
from fakd.commands.train import train

__all__ = [
    "check",
    "compare",
    "convert",
    "demo",
    "distill",
    "evaluate",
    "models",
    "predict",
    "report",
    "tables",
    "train",
]
