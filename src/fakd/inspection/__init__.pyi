from .findings import RARE, Finding, Inspection, Weight, inspected
from .opening import Opened
from .survey import Header, SplitFacts, spread

__all__ = [
    "RARE",
    "Finding",
    "Header",
    "Inspection",
    "Opened",
    "SplitFacts",
    "Weight",
    "inspected",
    "spread",
]
