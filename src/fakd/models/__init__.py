"""What satisfies `fakd.types.Segmenter`: the paper's networks and everybody else's."""

from fakd.models.catalogue import list_networks as list
from fakd.models.conversion import export_mmseg, import_mmseg
from fakd.models.deeplabv3plus import deeplabv3plus
from fakd.models.encoder_decoder import EncoderDecoder
from fakd.models.fcn_hrnet import fcn_hrnet
from fakd.models.files import NetworkInfo, load, read_info, save
from fakd.models.foreign import LogitsOnly, Tapped, adapt
from fakd.models.isanet import isanet
from fakd.models.mmseg import load_mmseg, to_mmseg
from fakd.models.normalize import Normalize
from fakd.models.pspnet import pspnet
from fakd.models.published import PUBLISHED, Published

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
    "list",
    "load",
    "load_mmseg",
    "pspnet",
    "read_info",
    "save",
    "to_mmseg",
]
