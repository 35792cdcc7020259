"""The report in a real browser; skipped where there is none (see `browsers`)."""

import numpy as np
import pytest
import torch

from browsers import chromium, playwright, violations, watched
from fakd import models
from fakd.commands.report import report
from fakd.data import scenes
from fakd.models import pspnet


@pytest.fixture(scope="module")
def page():
    with playwright.sync_playwright() as driver, chromium(driver) as opened:
        yield opened


@pytest.fixture
def opened(page, made_up, tmp_path):
    """The report of two runs with networks, and what the browser did to show it."""
    data = scenes(train=2, val=4, size=(48, 64))
    share = np.full(data.classes, 1 / data.classes)
    spec = {"class_path": "fakd.data.scenes", "init_args": {"train": 2, "val": 4, "size": [48, 64]}}
    folders = []
    for index, (name, accuracy) in enumerate((("alone", 0.6), ("cwd", 0.7), ("cwd-fa", 0.65))):
        torch.manual_seed(index)
        network = pspnet("mobilenetv3_small_050", data.classes, channels=16)
        for seed in range(2):
            more = {"data": spec, "names": data.class_names, "share": share}
            folder = made_up.run(tmp_path / f"{name}-{seed}", name, seed, accuracy, **more)
            file = folder / "final.safetensors"
            models.save(network, file, class_names=data.class_names, palette=data.palette)
            folders.append(folder)
    path = report(folders, tmp_path / "report.html", images=3)
    with watched(page) as events:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(path.as_uri())
        yield page, events, path


def column(page, index):
    return page.eval_on_selector_all(
        "table.sortable >> nth=0 >> tbody tr",
        f"rows => rows.map(row => row.cells[{index}])"
        ".map(cell => cell.dataset.value ?? cell.innerText)",
    )


@pytest.mark.slow
def test_it_opens_without_errors_and_asks_for_nothing(opened):
    page, events, path = opened
    assert page.inner_text("h1") == "Does it help?"
    assert page.locator(".verdicts li").count() == 3
    assert page.locator(".summary div").first.is_visible()
    assert not page.locator(".verdicts li").first.is_visible()
    assert page.eval_on_selector_all(
        "img", "all => all.every(each => each.complete && each.naturalWidth)"
    )
    assert events["console"] == events["errors"] == []
    assert [each for each in events["requests"] if not each.startswith("data:")] == [path.as_uri()]


@pytest.mark.slow
def test_a_heading_sorts_and_says_so_by_mouse_and_keyboard(opened):
    page, events, _ = opened
    titles = page.eval_on_selector_all(
        "table.sortable >> nth=0 >> thead th", "all => all.map(each => each.innerText.trim())"
    )
    index = next(i for i, title in enumerate(titles) if title.startswith("mIoU"))
    heading = page.locator("table.sortable").first.locator("thead th").nth(index)
    heading.locator("button").click()
    falling = [float(value) for value in column(page, index) if value]
    assert falling == sorted(falling, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    rising = [float(value) for value in column(page, index) if value]
    assert rising == sorted(rising) != falling
    names = page.locator("table.sortable").first.locator("thead th").first
    names.locator("button").click()
    assert column(page, 0) == sorted(column(page, 0), key=str.lower)
    assert heading.get_attribute("aria-sort") == "none"
    assert column(page, 0)[-1] != "", "rows stay whole"
    assert events["errors"] == []


@pytest.mark.slow
def test_rows_without_a_value_stay_last(opened):
    page, _, _ = opened
    titles = page.eval_on_selector_all(
        "table.sortable >> nth=0 >> thead th", "all => all.map(each => each.innerText.trim())"
    )
    index = next(i for i, title in enumerate(titles) if "student alone" in title)
    button = page.locator("table.sortable").first.locator("thead th").nth(index).locator("button")
    for _ in range(2):
        button.click()
        assert column(page, index)[-1] == ""


@pytest.mark.slow
def test_the_slider_wipes_by_keyboard_and_mouse(opened):
    page, events, _ = opened
    scene = page.locator(".scene").first
    stage, wipe = scene.locator(".stage"), scene.locator(".wipe")

    def cut():
        return stage.evaluate("each => each.style.getPropertyValue('--cut')")

    assert cut() == "50%"
    wipe.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert cut() == "55%"
    wipe.scroll_into_view_if_needed()
    box = wipe.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert 10 < float(cut().rstrip("%")) < 30
    right = scene.locator(".on-right")
    shown = right.evaluate("each => getComputedStyle(each).clipPath")
    assert cut() in shown
    assert events["errors"] == []


@pytest.mark.slow
def test_layers_are_chosen_and_tinted(opened):
    page, _, _ = opened
    scene = page.locator(".scene").first
    scene.locator("select.left").select_option(label="truth")
    scene.locator("select.right").select_option(label="CWD+FA")
    assert "truth" in scene.locator(".on-left img").get_attribute("alt")
    assert "CWD+FA" in scene.locator(".on-right img").get_attribute("alt")
    scene.locator("select.right").select_option(label="image")
    assert scene.locator(".on-right").count() == 0
    page.locator(".opacity").first.fill("30")
    opacity = scene.locator(".on-left").evaluate("each => getComputedStyle(each).opacity")
    assert float(opacity) == pytest.approx(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_only_tables_scroll_sideways(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_light_and_dark_have_contrast(opened):
    page, _, _ = opened
    ratios = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ratios[scheme] = page.evaluate(CONTRAST)
    page.emulate_media(color_scheme="light")
    assert ratios["light"]["paper"] != ratios["dark"]["paper"]
    for ratio in ratios.values():
        assert ratio["ink"] > 7
        assert ratio["soft"] > 4.5


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_that_bars_anyone(opened, scheme, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = violations(page)
    page.emulate_media(color_scheme="light")
    assert found == []


CONTRAST = """() => {
  const rgb = (value) => value.match(/[0-9.]+/g).slice(0, 3).map((each) => {
    const part = each / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (value) => rgb(value).reduce((sum, each, i) => sum + each * weights[i], 0);
  const ratio = (...colours) => {
    const [dark, bright] = colours.map(light).sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const body = getComputedStyle(document.body);
  const soft = getComputedStyle(document.querySelector(".class small"));
  return {
    paper: body.backgroundColor,
    ink: ratio(body.color, body.backgroundColor),
    soft: ratio(soft.color, body.backgroundColor),
  };
}"""
