"""Published checkpoints of the paper's teachers and of networks similar to its students."""

from typing import NamedTuple

SITE = "https://download.openmmlab.com/mmsegmentation/v0.5"


class Published(NamedTuple):
    """One checkpoint of mmsegmentation's model zoo."""

    recipe: str
    """Name of its training configuration: network, crop, iterations and data set."""
    stamp: str
    """Date and the first digits of the file's SHA-256."""
    miou: float
    """Published mIoU in percent, single scale."""
    miou_augmented: float | None = None
    """Published mIoU at several scales with flips."""
    paper: tuple[float, float] | None = None
    """mIoU and mAcc of this teacher in the paper's tables; None for those it does not use."""

    @property
    def file(self) -> str:
        """File name."""
        return f"{self.recipe}_{self.stamp}.pth"

    @property
    def url(self) -> str:
        """Download URL of the file."""
        group = "mobilenet_v2" if "_m-v2-" in self.recipe else self.recipe.split("_")[0]
        return f"{SITE}/{group.replace('fcn', 'hrnet')}/{self.recipe}/{self.file}"


_ROWS = """
pspnet_r101-d8_512x512_80k_ade20k 20200614_031423-b6e782f0 43.57 44.35
pspnet_r101-d8_512x512_160k_ade20k 20200615_100650-967c316f 44.39 45.35 44.39 54.74
pspnet_r101-d8_512x1024_40k_cityscapes 20200604_232751-467e7cf4 78.34 79.74
pspnet_r101-d8_512x1024_80k_cityscapes 20200606_112211-e1e1100f 79.76 81.01 79.74 86.56
pspnet_r101-d8_769x769_40k_cityscapes 20200606_112753-61c6f5be 79.08 80.28
pspnet_r101-d8_769x769_80k_cityscapes 20200606_225055-dba412fa 79.77 81.06
pspnet_r101-d8_480x480_40k_pascal_context_59 20210416_114524-86d44cd4 52.02 53.54
pspnet_r101-d8_480x480_80k_pascal_context_59 20210416_114418-fa6caaa2 52.47 53.99 52.47 63.15
pspnet_r101-d8_512x512_20k_voc12aug 20200617_102003-4aef3c9a 78.47 79.25
pspnet_r101-d8_512x512_40k_voc12aug 20200613_161222-bc933b18 78.52 79.57 78.52 86.11
fcn_hr48_512x512_80k_ade20k 20200614_193946-7ba5258d 41.90 43.27
fcn_hr48_512x512_160k_ade20k 20200614_214407-a52fc02c 42.02 43.86 42.02 53.52
fcn_hr48_512x1024_40k_cityscapes 20200601_014240-a989b146 78.48 79.69
fcn_hr48_512x1024_80k_cityscapes 20200601_202606-58ea95d6 79.93 80.72
fcn_hr48_512x1024_160k_cityscapes 20200602_190946-59b7973e 80.65 81.92 80.65 87.39
fcn_hr48_480x480_40k_pascal_context_59 20210410_122738-b808b8b2 50.33 52.83
fcn_hr48_480x480_80k_pascal_context_59 20210411_003240-3ae7081e 51.12 53.56 51.12 61.39
fcn_hr48_512x512_20k_voc12aug 20200617_224419-89de05cd 75.87 78.58
fcn_hr48_512x512_40k_voc12aug 20200613_222111-1b0f18bc 76.24 78.49 76.24 84.95
deeplabv3plus_r101-d8_512x512_80k_ade20k 20200615_014139-d5730af7 44.60 46.06
deeplabv3plus_r101-d8_512x512_160k_ade20k 20200615_123232-38ed86bb 45.47 46.35 45.47 56.41
deeplabv3plus_r101-d8_512x1024_40k_cityscapes 20200605_094614-3769eecf 80.21 81.82
deeplabv3plus_r101-d8_512x1024_80k_cityscapes 20200606_114143-068fcfe9 80.97 82.03 80.98 88.70
deeplabv3plus_r101-d8_769x769_40k_cityscapes 20200606_114304-ff414b9e 79.46 80.50
deeplabv3plus_r101-d8_769x769_80k_cityscapes 20220406_154720-dfcc0b68 80.65 81.47
deeplabv3plus_r101-d8_480x480_40k_pascal_context_59 20210416_111233-ed937f15 52.86 54.54
deeplabv3plus_r101-d8_480x480_80k_pascal_context_59 20210416_111127-7ca0331d 53.20 54.67 53.20 64.04
deeplabv3plus_r101-d8_512x512_20k_voc12aug 20200617_102345-c7ff3d56 77.22 78.59
deeplabv3plus_r101-d8_512x512_40k_voc12aug 20200613_205333-faf03387 78.62 79.53 78.62 86.55
isanet_r101-d8_512x512_80k_ade20k 20210903_162056-68b235c2 43.51 44.38
isanet_r101-d8_512x512_160k_ade20k 20210903_211431-a7879dcd 43.80 45.40 43.80 54.39
isanet_r101-d8_512x1024_40k_cityscapes 20210901_145553-293e6bd6 79.58 81.05
isanet_r101-d8_512x1024_80k_cityscapes 20210901_145243-5b99c9b2 80.32 81.58
isanet_r101-d8_769x769_40k_cityscapes 20210903_111320-509e7224 79.68 80.95
isanet_r101-d8_769x769_80k_cityscapes 20210903_111319-24f71dfa 80.61 81.59 80.61 88.29
isanet_r101-d8_512x512_20k_voc12aug 20210901_115805-3ccbf355 78.46 79.16 78.46 87.33
isanet_r101-d8_512x512_40k_voc12aug 20210901_145814-bc71233b 78.12 79.04
pspnet_r18-d8_512x1024_80k_cityscapes 20201225_021458-09ffa746 74.87 -
pspnet_r18b-d8_512x1024_80k_cityscapes 20201226_063116-26928a60 74.23 -
fcn_hr18s_512x1024_80k_cityscapes 20200601_202700-1462b75d 75.31 -
fcn_hr18s_512x1024_40k_cityscapes 20200601_014216-93db27d0 73.86 -
deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes 20200825_124836-d256dd4b 75.20 -
fcn_hr18s_512x512_80k_ade20k 20200614_144345-77fc814a 31.38 -
deeplabv3plus_m-v2-d8_512x512_160k_ade20k 20200825_223255-465a01d4 34.02 -
fcn_hr18s_512x512_40k_voc12aug 20200614_000648-4f8d6e7f 66.61 -
"""
"""Recipe, stamp, mIoU, augmented mIoU or a dash; for the paper's teachers, its two numbers."""


def _published(row: str) -> Published:
    recipe, stamp, miou, augmented, *paper = row.split()
    return Published(
        recipe,
        stamp,
        float(miou),
        None if augmented == "-" else float(augmented),
        (float(paper[0]), float(paper[1])) if paper else None,
    )


PUBLISHED = tuple(map(_published, _ROWS.strip().splitlines()))
"""Grouped by network; the last eight are similar to the paper's students."""
