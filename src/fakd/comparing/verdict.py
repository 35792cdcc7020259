"""The answer in one sentence per method, and the table it stands on."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev

from rich.markup import escape
from rich.table import Table

from fakd.comparing.comparison import Comparison, compare, find_method, seconds_per_step
from fakd.comparing.statistics import Difference, Interval, seeds_needed
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Failure, Run

WORTH = 0.5
"""The smallest gain in mIoU worth naming: about what seeds differ by in published work."""
CWD = "cwd"
MANY = 4
"""So many comparisons at 95 % find at least one difference where there is none in 1 of 5 cases."""
Compared = Mapping[str, Sequence[Comparison]]
"""What every other method of a pair was found to be, by the method they are compared with."""


def verdicts(compared: Compared) -> list[str]:
    """Say what the comparisons of a pair are worth, one sentence each."""
    return [sentence(each) for found in compared.values() for each in found]


def references(methods: Mapping[str, Sequence[Run]]) -> dict[str, list[Comparison]]:
    """Compare the methods of a pair with the student alone and with CWD, where they are present.

    The bootstrap over images makes this the dear part of a verdict: it is for doing once.

    Args:
        methods: the runs of each method, as `fakd.runs.reading.by_pair` groups them.
    """
    found = [name for name in (find_method(methods, each) for each in (ALONE, CWD)) if name]
    return {
        reference: [
            each
            for each in _comparisons(methods, reference)
            # It would repeat what the student alone's own comparison says.
            if reference == ALONE or each.method != ALONE
        ]
        for reference in found
    }


def cautions(compared: Compared) -> list[str]:
    """Say where so many methods were compared that what stands out may owe it to luck.

    Of ``n`` independent 95 % intervals about no difference, at least one leaves 0 with probability
    ``1 - 0.95^n``; methods compared with the same runs are not independent, so it is an estimate.
    """
    warned = []
    for reference, found in compared.items():
        intervals = [each.difference.interval for each in found if each.difference.interval]
        if len(intervals) < MANY or all(each.low <= 0 for each in intervals):
            continue
        count, chance = len(intervals), 1 - 0.95 ** len(intervals)
        warned.append(
            f"{count} methods were compared with {_the(reference)}: if none differed from it, one "
            f"or more would still seem to in about {100 * chance:.0f} % of such comparisons; "
            "repeat what stands out with other seeds"
        )
    return warned


def _comparisons(methods: Mapping[str, Sequence[Run]], reference: str) -> list[Comparison]:
    """Compare every other method of a pair with one, where they share a seed."""
    others = (runs for method, runs in methods.items() if method != reference)
    found = (compare(runs, methods[reference]) for runs in others)
    return [each for each in found if each is not None]


def sentence(comparison: Comparison) -> str:
    """Say whether a method helped, did not, hurt, or that these runs cannot tell.

    It helped, or hurt, if the whole interval lies on one side of 0, and did not help if the
    interval has no gain of 0.5 mIoU or more in it. One seed never gives a verdict.
    """
    name, difference = title_of(comparison.method), comparison.difference
    interval = difference.interval
    facts = f"{_signed(difference.mean)} mIoU{_range(difference)}{_at_time(comparison)}"
    if interval is None:
        return f"{name}: one seed shows no more than itself: {facts}; run at least 3 seeds"
    worse, no_better, better = _words(comparison)
    if interval.high < 0:
        return f"{name} {worse}: {facts}"
    if interval.high < WORTH:
        return f"{name} {no_better}: {facts}"
    if interval.low > 0:
        return f"{name} {better}: {facts}"
    return f"{name}: cannot tell with these seeds: {facts}; {_what_would_do(difference)}"


def _words(comparison: Comparison) -> tuple[str, str, str]:
    """Only what is added to the reference can help it; a rival is better or worse."""
    reference = comparison.reference
    if reference == ALONE or comparison.method.startswith(f"{reference}-fa"):
        return "hurt", "did not help here", "helped"
    rival = title_of(reference)
    return f"was worse than {rival}", f"was no better than {rival} here", f"was better than {rival}"


def _range(difference: Difference) -> str:
    if difference.interval is not None:
        alone = ", over seeds only" if difference.over_images is None else ""
        return f" (95 % {_ends(difference.interval)}{alone})"
    if difference.over_images is not None:
        return f" (95 % {_ends(difference.over_images)} over images only)"
    return ""


def _ends(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}"


def _signed(value: float, digits: int = 1) -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _at_time(comparison: Comparison) -> str:
    return f" at {comparison.time_ratio:.2f}x the time of {_the(comparison.reference)}"


def _the(method: str) -> str:
    return f"the {title_of(method)}" if method == ALONE else title_of(method)


def _what_would_do(difference: Difference) -> str:
    """Count the seeds after which some verdict would stand if mean and spread stay."""
    above = difference.over_images.high - difference.mean if difference.over_images else 0.0
    below = difference.mean - difference.over_images.low if difference.over_images else 0.0
    spread = difference.spread or 0.0
    verdict_at = (
        (difference.mean, below),
        (-difference.mean, above),
        (WORTH - difference.mean, above),
    )
    counts = [seeds_needed(spread, within, over_images) for within, over_images in verdict_at]
    enough = min((count for count in counts if count is not None), default=None)
    if enough is not None:
        more = max(enough - difference.seeds, 1)
        return f"{more} more seed{'s' if more > 1 else ''} would do"
    if all(over_images >= within for within, over_images in verdict_at):
        return "the images are too few for any number of seeds"
    return "100 seeds would not do"


def verdict_table(
    methods: Mapping[str, Sequence[Run]], compared: Compared, failures: Iterable[Failure] = ()
) -> Table:
    """List the methods of a pair with scores, differences and time; failed runs below it.

    Differences stand with their 95 % interval: over seeds and images, over seeds only (s) or over
    images only (i).
    """
    table = Table(box=None, header_style="bold")
    table.add_column("method")
    against = [f"against {_the(reference)}" for reference in compared]
    for heading in ("seeds", "mIoU", "mAcc", *against, "s/step"):
        table.add_column(heading, justify="right")
    found = {
        (each.method, each.reference): each.difference
        for differences in compared.values()
        for each in differences
    }
    for method, runs in methods.items():
        table.add_row(
            escape(title_of(method)),
            str(len(runs)),
            mean_and_spread([run.miou for run in runs]),
            mean_and_spread([run.macc for run in runs]),
            *(_with_interval(found.get((method, reference))) for reference in compared),
            f"{seconds_per_step(runs):.3f}",
        )
    failed = [
        f"[red]{escape(title_of(each.method))}, seed {each.seed}, failed:[/] {escape(each.reason)}"
        for each in failures
    ]
    if failed:
        table.caption, table.caption_justify = "\n".join(failed), "left"
    return table


def mean_and_spread(values: Sequence[float]) -> str:
    """Write the mean and, for several seeds, the sample standard deviation.

    >>> mean_and_spread([30.0, 32.0]), mean_and_spread([30.0])
    ('31.00 ± 1.41', '30.00')
    """
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def _with_interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    interval = difference.interval or difference.over_images
    if interval is None:
        return _signed(difference.mean, 2)
    mark = ""
    if difference.interval is None:
        mark = " i"
    elif difference.over_images is None:
        mark = " s"
    low, high = (_signed(end, 2) for end in interval)
    return f"{_signed(difference.mean, 2)} ({low} to {high}{mark})"
