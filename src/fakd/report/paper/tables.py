"""The paper's tables from finished runs, next to what was published."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fakd.comparing.verdict import augmented_pairs, compare_runs, seconds_per_step
from fakd.errors import InputError
from fakd.files import write_text
from fakd.report.methods import published, published_teacher, scores_of, teacher_miou
from fakd.report.table import Entry, Row, as_csv, markdown, mean_and_spread, number
from fakd.runs.naming import title_of
from fakd.runs.published import (
    BENCHMARKS,
    base_and_strength,
    benchmark_of,
    pair_of,
    published_cell,
)
from fakd.runs.reading import Methods, Run, by_pair

Groups = Mapping[tuple[str, str], Methods]
NOTE = (
    "Scores in percent, mean ± sample standard deviation over seeds; mAcc is the mean of the "
    "classes' accuracies. Paper: FAKD (arXiv 2208.14143), 40,000 steps of 16 crops; BPKD: the "
    "README of AkideLiu/BPKD, same networks, 80,000 steps. Published scores stand only beside runs "
    "with the data and networks they belong to."
)


def write_tables(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write every table that the runs have rows for, as Markdown and CSV.

    Tables 1 to 3 hold pairs x methods, one file per data set; Table 4 plain and augmented losses;
    Table 5 the strengths of augmentation; ``runs`` each run by itself.

    Returns:
        The files, in the order of the tables.

    Raises:
        InputError: there are no runs, or two of the same method and seed.
    """
    if not runs:
        raise InputError("expected finished runs to make tables of, got none; wait for one")
    groups = by_pair(runs)
    tables = {
        **_main_tables(groups),
        "table-4": ("Table 4: with and without feature augmentation", _augmentation_rows(groups)),
        "table-5": ("Table 5: strength of the augmentation", _strength_rows(groups)),
        "runs": (
            "Runs",
            [_run_row(run) for each in groups.values() for same in each.values() for run in same],
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (title, rows) in tables.items():
        if rows:
            write_text(out / f"{name}.md", f"# {title}\n\n{NOTE}\n\n{markdown(rows)}")
            write_text(out / f"{name}.csv", as_csv(rows))
            written += [out / f"{name}.md", out / f"{name}.csv"]
    return written


def _main_tables(groups: Groups) -> dict[str, tuple[str, list[Row]]]:
    tables: dict[str, tuple[str, list[Row]]] = {}
    for (data, pair), methods in groups.items():
        benchmark = benchmark_of(next(iter(methods.values()))[0].recipe)
        number_of, title = BENCHMARKS.get(benchmark or "", ("Tables 1 to 3", data))
        stem = number_of.lower().replace(" ", "-")
        file = "".join(letter if letter.isalnum() else "-" for letter in data.lower())
        _, rows = tables.setdefault(f"{stem}-{benchmark or file}", (f"{number_of}: {title}", []))
        if (miou := teacher_miou(methods)) is not None:
            rows.append(
                {
                    **{"pair": Entry(pair), "method": Entry("teacher"), "seeds": Entry()},
                    **{"mIoU": mean_and_spread([miou]), "mAcc": Entry()},
                    **published_teacher(methods),
                }
            )
        rows += [_row(pair, same) for same in methods.values()]
    return tables


def _row(pair: str, runs: Sequence[Run]) -> Row:
    paper, bpkd = (published_cell(runs[0].recipe, source) for source in ("paper", "bpkd"))
    return {
        "pair": Entry(pair),
        "method": Entry(title_of(runs[0].method)),
        **scores_of(runs),
        **published("paper", paper),
        **published("BPKD", bpkd),
        **({"remark": Entry(paper.remark)} if paper else {}),
    }


def _augmentation_rows(groups: Groups) -> list[Row]:
    """Each loss without and with augmentation, where both were run."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        for _, plain, augmented in augmented_pairs(methods):
            gain: dict[str, Entry] = {}
            if (comparison := compare_runs(augmented, plain)) is not None:
                gain["gain of FA"] = number(comparison.difference.mean)
                if interval := comparison.difference.interval:
                    gain["95 % from"], gain["95 % to"] = map(number, interval)
                gain["time"] = number(comparison.time_ratio)
            rows.append({"data": Entry(data), **_row(pair, plain)})
            rows.append({"data": Entry(data), **_row(pair, augmented), **gain})
    return rows


def _strength_rows(groups: Groups) -> list[Row]:
    """CWD by strength, where there are at least two besides plain CWD."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        known = [(*base_and_strength(runs[0].recipe), runs) for runs in methods.values()]
        found = [(strength, runs) for base, strength, runs in known if base == "cwd"]
        if sum(strength > 0 for strength, _ in found) >= 2:
            rows += [
                {"data": Entry(data), "strength": number(strength, ".1f"), **_row(pair, runs)}
                for strength, runs in sorted(found, key=lambda each: each[0])
            ]
    return rows


def _run_row(run: Run) -> Row:
    final = run.result["final"]
    pair = pair_of(run.recipe) if benchmark_of(run.recipe) else None
    return {
        "data": Entry(run.data),
        "pair": Entry(run.pair),
        "method": Entry(title_of(run.method)),
        "seed": number(run.seed, ","),
        "parameters": number(run.result["parameters"], ","),
        "steps": number(run.result["steps"], ","),
        "mIoU": number(final["miou"]),
        "mAcc": number(final["macc"]),
        "aAcc": number(final["aacc"]),
        "seconds": number(float(run.result["train_seconds"]), ".1f"),
        "seconds per step": number(seconds_per_step([run]), ".3f"),
        "mean λv/2T² at the end": number(last_augmentation(run), ".3f"),
        "paper's pair": Entry(pair or ""),
    }


def last_augmentation(run: Run) -> float | None:
    """Read the size of the augmentation's term, mean λv/2T², last logged; None without one."""
    sizes = [
        points[-1]
        for name, points in run.curves.items()
        if name.rpartition("/")[2] == "augmentation"
    ]
    return max(sizes)[1] if sizes else None
