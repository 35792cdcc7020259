from .findings import RARE, Finding, Inspection, Severity, inspect_data
from .opening import OpenedData
from .survey import Header, SplitFacts, spread_evenly

__all__ = [
    "RARE",
    "Finding",
    "Header",
    "Inspection",
    "OpenedData",
    "Severity",
    "SplitFacts",
    "inspect_data",
    "spread_evenly",
]
