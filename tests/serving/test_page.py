"""The page of `fakd serve` in a real browser; skipped where there is none (see `browsers`)."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from browsers import chromium, playwright, violations, watched
from fakd.commands.serve import serve
from fakd.models import pspnet, save
from fakd.serving.server import PageServer

NAMES = ("sky", "<img src=x onerror=alert(1)>", "tree", "car", "wall")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver, chromium(driver) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serve two networks whose answers differ."""
    folder, started, ready = tmp_path_factory.mktemp("served"), [], threading.Event()
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = pspnet("mobilenetv3_small_050", 5, channels=16)
        files.append(folder / f"a rather long name of a network, number {seed}.safetensors")
        save(network, files[-1], class_names=NAMES, palette=[(60 * i, 99, 255) for i in range(5)])
    begin = PageServer.serve

    def listed(self, *given):
        started.append(self)
        ready.set()
        begin(self, *given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PageServer, "serve", listed)
        options = {"port": 0, "accelerator": "cpu", "threads": 1, "megabytes": 1}
        threading.Thread(target=serve, args=(files,), kwargs=options, daemon=True).start()
        assert ready.wait(60)
        yield started[0].url
        started[0].shutdown()


@pytest.fixture
def opened(browser, address):
    """The page, and what went wrong or was asked while it was open."""
    with watched(browser) as events:
        browser.set_viewport_size({"width": 1200, "height": 900})
        browser.goto(address)
        yield browser, events


@pytest.fixture
def photo(tmp_path):
    rows = np.linspace(0, 255, 60, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(rows[:, None], rows[None], np.uint8(90)), axis=-1)
    path = tmp_path / "<b>photo.png"
    Image.fromarray(pixels).resize((90, 60)).save(path)
    return path


def choose(page, path):
    page.set_input_files("#file", path)
    page.get_by_text(f"{path.name} is shown.").wait_for()


def opaque(page, number):
    """Count the pixels of a network's canvas that are painted."""
    count = """canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
        .data.filter((value, place) => place % 4 === 3 && value === 255).length"""
    return page.locator("canvas").nth(number).evaluate(count)


def test_an_image_is_seen_by_both_and_nothing_is_asked_of_others(opened, photo, address):
    page, events = opened
    assert page.locator(".wipe").first.is_disabled()
    choose(page, photo)
    assert page.locator("canvas").count() == 2
    assert opaque(page, 0) == opaque(page, 1) == 90 * 60
    assert all(text.endswith(" ms") for text in page.locator(".time").all_inner_texts())
    shares = page.locator("#found tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].slice(1).map(each => parseFloat(each.innerText)))"
    )
    assert np.array(shares).sum(axis=0) == pytest.approx(100, abs=0.5)
    assert all(url.startswith((address, "blob:", "data:")) for url in events["requests"])
    assert events["console"] == events["errors"] == []


def test_a_drop_anywhere_does_the_same(opened):
    page, events = opened
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), {width: 40, height: 30});
          canvas.getContext("2d");
          const blob = await new Promise((done) => canvas.toBlob(done));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.png"));
          document.body.dispatchEvent(
            new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
        }"""
    )
    page.get_by_text("dropped.png is shown.").wait_for()
    assert opaque(page, 0) == 40 * 30
    assert events["errors"] == []


def test_one_class_is_shown_and_its_row_stands_out(opened, photo):
    page, _ = opened
    choose(page, photo)
    name = page.locator("#class option").nth(1).inner_text()
    page.select_option("#class", label=name)
    share = page.locator("tr.chosen td").evaluate_all(
        "cells => cells.map(each => parseFloat(each.innerText))"
    )
    for number in range(2):
        assert 100 * opaque(page, number) / (90 * 60) == pytest.approx(share[number], abs=0.06)
    # It stays chosen for the next image.
    choose(page, photo.rename(photo.with_name("next.png")))
    assert page.locator("tr.chosen th").inner_text() == name
    page.select_option("#class", "")
    assert opaque(page, 0) == 90 * 60


def test_the_cut_goes_through_all_by_keyboard_and_touch(opened, photo):
    page, _ = opened
    choose(page, photo)
    page.locator("#opacity").focus()
    page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    cuts = page.locator(".stage").evaluate_all(
        "all => all.map(each => each.style.getPropertyValue('--cut'))"
    )
    assert cuts == ["55%", "55%"]
    box = page.locator(".wipe").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    left = int(page.locator(".wipe").first.input_value())
    assert 20 <= left <= 30
    clip = page.locator(".layer").first.evaluate("each => getComputedStyle(each).clipPath")
    assert f"{left}%" in clip
    page.locator("#opacity").fill("40")
    shown = page.locator(".layer").first.evaluate("each => getComputedStyle(each).opacity")
    assert float(shown) == pytest.approx(0.4)


def test_what_is_no_image_is_told_and_what_was_shown_stays(opened, photo, tmp_path):
    page, events = opened
    choose(page, photo)
    (tmp_path / "<i>notes.txt").write_text("no image")
    page.set_input_files("#file", tmp_path / "<i>notes.txt")
    page.get_by_text("cannot decode the file").wait_for()
    assert page.inner_text("#problem").startswith("<i>notes.txt: cannot decode the file")
    assert opaque(page, 0) == 90 * 60
    (tmp_path / "large.png").write_bytes(bytes(2_000_000))
    page.set_input_files("#file", tmp_path / "large.png")
    page.get_by_text("the file has more than 1 MB").wait_for()
    choose(page, photo)
    assert page.locator("#problem").is_hidden()
    assert events["errors"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200, 1900])
def test_it_fits_and_bars_nobody(opened, photo, width, scheme):
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    empty = violations(page)
    choose(page, photo)
    found = violations(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.emulate_media(color_scheme="light")
    assert empty == found == []
    assert wide <= width
