"""The paper's tables from finished runs, next to what was published."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev

from fakd.comparing.comparison import compare, find_method, seconds_per_step
from fakd.errors import InputError
from fakd.files import write_text
from fakd.report.curves import last_augmentation
from fakd.report.paper.scores import (
    BENCHMARKS,
    Score,
    base_and_strength,
    benchmark_of,
    pair_of,
    published_cell,
    teacher_score,
)
from fakd.runs.naming import title_of
from fakd.runs.reading import Run, by_pair

Cell = str | int | float | None
Row = dict[str, Cell]
Methods = Mapping[str, Sequence[Run]]
AUGMENTATION = "mean λv/2T² at the end"
_DIGITS = {"seconds": 1, "strength": 1, "seconds per step": 3, AUGMENTATION: 3}
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
        "runs": ("Runs", [_run_row(run) for each in groups.values() for run in _all(each)]),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (title, rows) in tables.items():
        if rows:
            write_text(out / f"{name}.md", f"# {title}\n\n{NOTE}\n\n{markdown(rows)}")
            write_text(out / f"{name}.csv", _as_csv(rows))
            written += [out / f"{name}.md", out / f"{name}.csv"]
    return written


def _main_tables(
    groups: Mapping[tuple[str, str], Methods],
) -> dict[str, tuple[str, list[Row]]]:
    tables: dict[str, tuple[str, list[Row]]] = {}
    for (data, pair), methods in groups.items():
        benchmark = benchmark_of(_all(methods)[0].recipe)
        number, title = BENCHMARKS.get(benchmark or "", ("Tables 1 to 3", data))
        stem = number.lower().replace(" ", "-")
        name = f"{stem}-{benchmark or _file_name(data)}"
        _, rows = tables.setdefault(name, (f"{number}: {title}", []))
        rows += _teacher_rows(pair, methods)
        rows += [_row(pair, method, same) for method, same in methods.items()]
    return tables


def _row(pair: str, method: str, runs: Sequence[Run]) -> Row:
    row: Row = {
        "pair": pair,
        "method": title_of(method),
        "seeds": len(runs),
        **_ours("mIoU", [run.miou for run in runs]),
        **_ours("mAcc", [run.macc for run in runs]),
    }
    paper, bpkd = (published_cell(runs[0].recipe, source) for source in ("paper", "bpkd"))
    remark: Row = {"remark": paper.remark or None} if paper else {}
    return row | _published("paper", paper) | _published("BPKD", bpkd) | remark


def _ours(name: str, values: Sequence[float]) -> Row:
    spread = stdev(values) if len(values) > 1 else None
    return {name: mean(values), f"{name} sd": spread}


def _published(source: str, score: Score | None) -> Row:
    miou, macc = score[:2] if score else (None, None)
    return {f"{source} mIoU": miou, f"{source} mAcc": macc}


def _teacher_rows(pair: str, methods: Methods) -> list[Row]:
    taught = [run for run in _all(methods) if run.result.get("teacher_miou") is not None]
    if not taught:
        return []
    score = median(run.result["teacher_miou"] for run in taught)
    row: Row = {"pair": pair, "method": "teacher", "seeds": None, **_ours("mIoU", [score])}
    row |= {"mAcc": None, "mAcc sd": None}
    return [row | _published("paper", teacher_score(taught[0].recipe))]


def _augmentation_rows(groups: Mapping[tuple[str, str], Methods]) -> list[Row]:
    """Each loss without and with augmentation, where both were run."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        for base in ("pd", "cwd"):
            plain, augmented = find_method(methods, base), find_method(methods, f"{base}-fa")
            if plain is None or augmented is None:
                continue
            rows += [{"data": data, **_row(pair, plain, methods[plain])}]
            comparison = compare(methods[augmented], methods[plain])
            row: Row = {"data": data, **_row(pair, augmented, methods[augmented])}
            if comparison is not None:
                row["gain of FA"] = comparison.difference.mean
                if interval := comparison.difference.interval:
                    row["95 % from"], row["95 % to"] = interval.low, interval.high
                row["time"] = comparison.time_ratio
            rows.append(row)
    return rows


def _strength_rows(groups: Mapping[tuple[str, str], Methods]) -> list[Row]:
    """CWD by strength, where there are at least two besides plain CWD."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        found = sorted(
            (strength, method)
            for method, runs in methods.items()
            for base, strength in [base_and_strength(runs[0].recipe)]
            if base == "cwd"
        )
        if sum(strength > 0 for strength, _ in found) < 2:
            continue
        for strength, method in found:
            rows.append({"data": data, "strength": strength, **_row(pair, method, methods[method])})
    return rows


def _run_row(run: Run) -> Row:
    final = run.result["final"]
    return {
        "data": run.data,
        "pair": run.pair,
        "method": title_of(run.method),
        "seed": run.seed,
        "parameters": run.result["parameters"],
        "steps": run.result["steps"],
        "mIoU": final["miou"],
        "mAcc": final["macc"],
        "aAcc": final["aacc"],
        "seconds": float(run.result["train_seconds"]),
        "seconds per step": seconds_per_step([run]),
        AUGMENTATION: last_augmentation(run.curves),
        "paper's pair": pair_of(run.recipe) if benchmark_of(run.recipe) else None,
    }


def _all(methods: Methods) -> list[Run]:
    return [run for runs in methods.values() for run in runs]


def markdown(rows: Iterable[Row]) -> str:
    """Write rows as a Markdown table; a spread joins its mean, empty columns are left out.

    >>> print(markdown([{"method": "CWD", "mIoU": 35.0, "mIoU sd": 0.5, "paper": None}]), end="")
    | method | mIoU |
    |---|---:|
    | CWD | 35.00 ± 0.50 |
    """
    rows = list(rows)
    names = [name for name in _columns(rows) if not name.endswith(" sd")]
    used = [name for name in names if any(row.get(name) is not None for row in rows)]
    numeric = [all(not isinstance(row.get(name), str) for row in rows) for name in used]
    rule = "".join("---:|" if right else "---|" for right in numeric)
    lines = [f"| {' | '.join(used)} |", f"|{rule}"]
    lines += [f"| {' | '.join(_shown(row, name) for name in used)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(row: Row, name: str) -> str:
    value, spread = row.get(name), row.get(f"{name} sd")
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DIGITS.get(name, 2)}f}" + (
            f" ± {spread:.2f}" if spread is not None else ""
        )
    return f"{value:,}" if isinstance(value, int) else value.replace("|", "\\|")


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: round(cell, 4) if isinstance(cell, float) else cell for key, cell in row.items()}
        for row in rows
    )
    return text.getvalue()


def _columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _file_name(data: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in data.lower())
