"""docs/teachers.md lists the checkpoints that the package knows, with their scores."""

from pathlib import Path

from fakd.models import PUBLISHED

PAGE = Path(__file__).parents[2] / "docs" / "teachers.md"


def rows():
    def number(value):
        return "" if value is None else f"{value:.2f}"

    for entry in PUBLISHED:
        paper = entry.paper or (None, None)
        scores = (entry.miou, entry.miou_augmented, *paper)
        yield f"| [{entry.file}]({entry.url}) | " + " | ".join(map(number, scores)) + " |"


def test_the_page_lists_every_checkpoint():
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    assert listed == list(rows())
