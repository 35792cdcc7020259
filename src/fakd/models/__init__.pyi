from .catalogue import list_networks
from .files import NetworkInfo, load, read_info, save
from .foreign import LogitsOnly, Tapped, adapt
from .mmseg.checkpoint import load_mmseg, to_mmseg
from .mmseg.conversion import export_mmseg, import_mmseg
from .mmseg.published import PUBLISHED, Published
from .normalize import Normalize
from .paper import EncoderDecoder, deeplabv3plus, fcn_hrnet, isanet, pspnet
from .weights import not_finite

__all__ = [
    "PUBLISHED",
    "EncoderDecoder",
    "LogitsOnly",
    "NetworkInfo",
    "Normalize",
    "Published",
    "Tapped",
    "adapt",
    "deeplabv3plus",
    "export_mmseg",
    "fcn_hrnet",
    "import_mmseg",
    "isanet",
    "list_networks",
    "load",
    "load_mmseg",
    "not_finite",
    "pspnet",
    "read_info",
    "save",
    "to_mmseg",
]
