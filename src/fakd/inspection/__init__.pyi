from .findings import RARE, Finding, Inspection, Weight, inspect_data
from .opening import OpenedData
from .survey import Header, SplitFacts, spread_evenly

__all__ = [
    "RARE",
    "Finding",
    "Header",
    "Inspection",
    "OpenedData",
    "SplitFacts",
    "Weight",
    "inspect_data",
    "spread_evenly",
]
