"""docs/teachers.md lists the checkpoints that the package knows, their scores and recipes."""

from collections import defaultdict
from pathlib import Path

from paper import paper

from fakd.models import PUBLISHED

PAGE = Path(__file__).parents[2] / "docs" / "teachers.md"


def rows():
    def number(value):
        return "" if value is None else f"{value:.2f}"

    folders = defaultdict(set)
    for name, (_, recipe) in paper().items():
        if "teacher" in recipe:
            file = Path(recipe["teacher"]["init_args"]["path"]).name
            folders[file].add(name.rpartition("/")[0])
    for entry in PUBLISHED:
        paper_scores = entry.paper or (None, None)
        scores = (entry.miou, entry.miou_augmented, *paper_scores)
        recipes = ", ".join(f"[{name}](../recipes/{name})" for name in sorted(folders[entry.file]))
        cells = [f"[{entry.file}]({entry.url})", *map(number, scores), recipes]
        yield "| " + " | ".join(cells) + " |"


def test_the_page_lists_every_checkpoint():
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    assert listed == list(rows())
