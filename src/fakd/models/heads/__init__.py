"""What turns a backbone's stages into logits and the feature before the classifier."""

from fakd.models.heads.aspp import SeparableASPPHead
from fakd.models.heads.fcn import FCNHead
from fakd.models.heads.isa import ISAHead
from fakd.models.heads.psp import PSPHead

Head = PSPHead | SeparableASPPHead | ISAHead | FCNHead

__all__ = ["FCNHead", "Head", "ISAHead", "PSPHead", "SeparableASPPHead"]
