from .catalogue import list_networks
from .files import NetworkInfo, load, read_info, save
from .foreign.adapted import Adapted, LinearView, Probe
from .foreign.adaption import adapt
from .foreign.exported import open_exported
from .foreign.libraries import open_smp, open_transformers
from .foreign.opening import open_network
from .hypercolumns import hypercolumns
from .mmseg.checkpoint import load_mmseg, to_mmseg
from .mmseg.conversion import export_mmseg, import_mmseg
from .mmseg.published import PUBLISHED, Published
from .normalize import Normalize
from .paper import EncoderDecoder, deeplabv3plus, fcn_hrnet, isanet, pspnet
from .students import STUDENTS, list_students
from .weights import not_finite

__all__ = [
    "PUBLISHED",
    "STUDENTS",
    "Adapted",
    "EncoderDecoder",
    "LinearView",
    "NetworkInfo",
    "Normalize",
    "Probe",
    "Published",
    "adapt",
    "deeplabv3plus",
    "export_mmseg",
    "fcn_hrnet",
    "hypercolumns",
    "import_mmseg",
    "isanet",
    "list_networks",
    "list_students",
    "load",
    "load_mmseg",
    "not_finite",
    "open_exported",
    "open_network",
    "open_smp",
    "open_transformers",
    "pspnet",
    "read_info",
    "save",
    "to_mmseg",
]
