from .classes import ClassMap, read_class_map
from .encoding import Encoding
from .sources import Mapped, Several, Source, Stored, parse_source
from .store import Store, open_answers

__all__ = [
    "ClassMap",
    "Encoding",
    "Mapped",
    "Several",
    "Source",
    "Store",
    "Stored",
    "open_answers",
    "parse_source",
    "read_class_map",
]
