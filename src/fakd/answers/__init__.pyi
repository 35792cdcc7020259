from .classes import ClassMap, read_class_map
from .encoding import Encoding
from .sources import Mapped, Several, Source, Stored, described
from .store import Store, open_answers

__all__ = [
    "ClassMap",
    "Encoding",
    "Mapped",
    "Several",
    "Source",
    "Store",
    "Stored",
    "described",
    "open_answers",
    "read_class_map",
]
