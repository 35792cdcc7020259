"""The one network class of this package: a backbone, a decode head, perhaps an auxiliary head."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fakd.models.heads import FCNHead, Head
from fakd.models.normalize import Normalize
from fakd.types import Prediction, Segmenter


class EncoderDecoder(Segmenter):
    """Backbone stages into a head; the feature before its classifier comes out beside the logits.

    ``normalize`` may be replaced, for images that are normalised already: by ``nn.Identity()``.
    The state dictionary holds ``backbone.*``, ``decode_head.*`` and ``auxiliary_head.*``.

    Args:
        backbone: images to a list of feature maps, fine to coarse.
        decode_head: those maps to (logits, features).
        auxiliary_head: a second head on an earlier stage, worth a few per cent of the cost; None
            removes it from a network that is trained.
        normalize: what happens to images in [0, 1] first.
        config: how to build this network again.
        weights: what its backbone started from, kept as part of its origin.
        align_corners: how its logits are meant to be enlarged to the image.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decode_head: Head,
        auxiliary_head: FCNHead | None,
        normalize: nn.Module | None = None,
        config: dict[str, Any] | None = None,
        weights: str | Path | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize or Normalize()
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head
        self.classes = decode_head.conv_seg.out_channels
        self.config = config
        self.align_corners = align_corners
        if config is not None and weights is not None:
            arguments = config["init_args"] | {"weights": str(weights)}
            self.origin = {"class_path": config["class_path"], "init_args": arguments}

    @property
    def classifier(self) -> nn.Conv2d:
        """The final 1x1 convolution: of the features it makes the logits."""
        return self.decode_head.conv_seg

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Classify every position of the head's grid."""
        stages = self.backbone(self.normalize(images))
        logits, features = self.decode_head(stages)
        auxiliary = None
        if self.auxiliary_head is not None:
            auxiliary, _ = self.auxiliary_head(stages)
        return Prediction(logits, features, auxiliary)
