"""`fakd serve`: compare networks on your images in a browser, on this machine."""

import os
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakd
from fakd.console import open_console, remark
from fakd.errors import InputError
from fakd.files import expand_user
from fakd.serving.server import PageServer
from fakd.settings import InferenceOverrides

if TYPE_CHECKING:
    from rich.console import Console

_PIXELS = 50_000_000
"""Maximum size of a decoded image, unless FAKD_MAX_PIXELS is set."""


def serve(
    networks: Sequence[Any],
    port: int = 8000,
    host: str = "127.0.0.1",
    open: bool = False,
    megabytes: float | int = 25,
    teachers: bool = True,
    inference: InferenceOverrides = None,
    threads: int | None = None,
    accelerator: str = "auto",
) -> None:
    """Compare the predictions of networks on images that you drop onto a page.

    The page is served on this machine only and needs no internet: classes over the image behind a
    slider, times, the share of every class. One network runs at a time. Images are not kept. Ctrl-C
    stops it.

    Args:
        networks: finished runs, weight files, exported files, or any networks.
        port: port of the page; 0 picks a free one.
        host: a loopback address; no other is accepted.
        open: open the page in a browser.
        megabytes: the largest file that is accepted.
        teachers: also show the teachers of the runs, where they are networks.
        inference: how images are shown to the networks; by default as in each one's training.
        threads: CPU threads; by default all that are free.
        accelerator: cpu, cuda, mps, or auto for the best one present.

    Raises:
        InputError: a network cannot be opened, the port is in use, or the host is not loopback.
    """
    if not networks or not megabytes > 0:
        raise InputError("expected networks, and --megabytes above 0")
    with PageServer(host, port, int(1e6 * megabytes)) as server:
        # Imported here, so that a port in use is reported at once.
        from functools import partial

        from fakd.serving.networks import MergedClasses, encode_photo, prepare, segment
        from fakd.serving.page import page
        from fakd.training.start import pick_device

        console = open_console()
        opened = [*_open_teachers(networks, console)] if teachers else []
        for each in networks:
            title = str(each) if isinstance(each, str | Path) else type(each).__name__
            opened.append((title, fakd.models.open_network(each)))
        device = pick_device(accelerator, threads)
        os.environ.setdefault("FAKD_MAX_PIXELS", str(_PIXELS))
        all_shown = [prepare(title, each, inference, device) for title, each in opened]
        for one in all_shown:
            for note in one.network.remarks:
                remark(console, f"{one.title}: {note}")
        common = MergedClasses(all_shown)
        posts = {"/photo": partial(encode_photo, all_shown[0])}
        for number, (one, places) in enumerate(zip(all_shown, common.places, strict=True)):
            posts[f"/segment/{number}"] = partial(segment, one, places)
        said = ", ".join(each.title for each in all_shown)
        console.print(f"{said} at {server.url} (Ctrl-C stops it)", soft_wrap=True)
        if open and not webbrowser.open(server.url):
            remark(console, "no browser was found; open the address yourself")
        server.serve(page(all_shown, common, server.limit), posts)


def _open_teachers(
    networks: Sequence[Any], console: "Console"
) -> Iterator[tuple[str, "fakd.Segmenter"]]:
    """Open the teachers of the runs, each once, unless they are among the networks."""
    from fakd.report.examination import open_teacher_of
    from fakd.runs.folder import RECIPE
    from fakd.runs.reading import read_run

    paths = [expand_user(each) for each in networks if isinstance(each, str | Path)]
    known, seen = {each.resolve() for each in paths}, list[Any]()
    for folder in paths:
        run = read_run(folder) if (folder / RECIPE).is_file() else None
        teacher = run.recipe.get("teacher") if run else None
        if run is None or teacher is None or teacher in seen:
            continue
        seen.append(teacher)
        path = teacher.get("init_args", {}).get("path") if isinstance(teacher, dict) else None
        if path is not None and expand_user(path).resolve() in known:
            continue
        try:
            yield path or f"teacher of {folder.name}", open_teacher_of(run)
        except InputError as error:
            remark(console, f"the teacher of {folder.name} is not shown: {error}")
