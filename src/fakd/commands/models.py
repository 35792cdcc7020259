"""`fakd models`: the paper's networks in numbers, and the checkpoints published for them."""

from fakd.console import open_console


def models(classes: int = 150, published: bool = False) -> None:
    """List the paper's networks: parameters, FLOPs, width and stride; or published checkpoints.

    FLOPs are for one 512 x 512 image, counted by PyTorch, two per multiply-accumulate, without the
    auxiliary head; parameters include it. A published checkpoint, once downloaded, can be used
    directly: --teacher FILE.pth.

    Args:
        classes: number of classes the networks are counted for; 150 is ADE20K's.
        published: list mmsegmentation's checkpoints of these networks instead, with their scores.
    """
    # Imported here because `fakd models --help` need not wait for it.
    from fakd.models import PUBLISHED, list_networks
    from fakd.report.table import network_table, published_table

    table = published_table(PUBLISHED) if published else network_table(list_networks(classes))
    # File names must stay whole to be copied, whatever the terminal's width.
    console = open_console()
    console.width = max(console.width, 120)
    console.print(table)
