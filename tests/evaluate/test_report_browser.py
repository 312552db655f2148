"""The report in a real browser: pictures, slider and divider, by keyboard and screen reader."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import Page, find_browser, page
from needed import require
from test_report import evaluation, preview, stack_of

from deepcontrast_bmz.evaluate.records import Preview
from deepcontrast_bmz.evaluate.report import render_report

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

WARNING = "the image is unlike those the model was trained for (score 2.0, limit 1)"
COMMAND = "dcbmz evaluate 'my model' deep.tif -o results"
PREDICT = "dcbmz predict 'my model' deep.tif"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Generator[Page]:
    browser = find_browser()
    if browser is None:
        require("there is no Chromium on this machine, and DCBMZ_BROWSER names none")
    assert browser is not None
    file = tmp_path_factory.mktemp("report") / "report.html"
    maps: dict[str, Any] = {"agreement": tuple(preview(20 + seed) for seed in range(4))}
    stacked = evaluation(ood_score=2.0, warning=WARNING, **stack_of(2, 11), **maps)
    html = render_report(stacked, command=COMMAND, predict=PREDICT)
    file.write_text(html, encoding="utf-8")
    with page(browser) as opened:
        opened.open(file)
        yield opened


def visible_frame(shown: Page) -> str:
    return shown.evaluate(
        "[...document.querySelectorAll('[data-frame]')].filter(f => !f.hidden)"
        ".map(f => f.dataset.dial).join()"
    )


def text(shown: Page, name: str) -> str:
    return shown.evaluate(f"document.getElementById('{name}').textContent")


def tab_to(shown: Page, name: str) -> None:
    """Press Tab from the top of the page until an element has the focus."""
    shown.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges(); 0")
    for _ in range(20):
        shown.key("Tab")
        if shown.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"Tab never reaches {name}")


def test_it_asks_for_nothing_and_complains_of_nothing(shown: Page) -> None:
    shown.evaluate("document.title")
    assert shown.problems == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []


def test_every_picture_is_decoded(shown: Page) -> None:
    widths = shown.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) >= 6
    assert min(widths) > 0


def test_the_slider_is_moved_by_the_keyboard(shown: Page) -> None:
    tab_to(shown, "dial")
    shown.key("Home")
    assert visible_frame(shown) == "0"
    assert text(shown, "now-dial") == "0"
    shown.key("ArrowRight", 2)
    assert visible_frame(shown) == "1"
    assert text(shown, "now-verdict") == "over-enhanced"
    assert text(shown, "now-why") == "Its contrast is 1.30 times the reference's."
    shown.key("End")
    assert visible_frame(shown) == "2"
    assert "does not give the recording back" in text(shown, "now-why")
    shown.key("ArrowLeft", 2)
    assert visible_frame(shown) == "0.75"


def test_the_button_goes_back_to_the_automatic_dial(shown: Page) -> None:
    tab_to(shown, "dial")
    shown.key("End")
    tab_to(shown, "auto")
    shown.evaluate("document.activeElement.click(); 0")
    assert visible_frame(shown) == "0.75"
    # So that a screen reader says where it went.
    assert shown.evaluate("document.activeElement.id") == "dial"


def test_the_divider_is_moved_by_the_keyboard(shown: Page) -> None:
    tab_to(shown, "cut")
    shown.key("Home")
    assert text(shown, "now-cut") == "0 % raw"
    assert (
        shown.evaluate("document.getElementById('stage').style.getPropertyValue('--cut')") == "0%"
    )
    shown.key("ArrowRight", 3)
    assert text(shown, "now-cut") == "3 % raw"


def test_the_divider_is_dragged(shown: Page) -> None:
    box = shown.evaluate(
        "(b => [b.left, b.top, b.width])(document.getElementById('stage').getBoundingClientRect())"
    )
    place = {"y": box[1] + 20, "button": "left", "buttons": 1, "clickCount": 1}
    for kind, share in (("mousePressed", 0.6), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        shown.call("Input.dispatchMouseEvent", type=kind, x=box[0] + share * box[2], **place)
    assert text(shown, "now-cut") == "25 % raw"


def again(shown: Page) -> None:
    """Open the page anew."""
    assert shown.file is not None
    shown.open(shown.file)


def test_the_divider_is_remembered(shown: Page) -> None:
    tab_to(shown, "cut")
    shown.key("Home")
    shown.key("ArrowRight", 7)
    again(shown)
    assert text(shown, "now-cut") == "7 % raw"
    shown.evaluate("localStorage.setItem('dcbmz-divider', 'nonsense'); 0")
    again(shown)
    assert text(shown, "now-cut") == "50 % raw"
    assert shown.problems == []


def visible_planes(shown: Page) -> list[list[str]]:
    return shown.evaluate(
        "[...document.querySelectorAll('[data-plane]')].filter(f => !f.hidden)"
        ".map(f => [f.dataset.plane, f.dataset.iteration, f.style.opacity])"
    )


def test_the_planes_of_a_stack_are_gone_through(shown: Page) -> None:
    tab_to(shown, "auto")
    shown.evaluate("document.activeElement.click(); 0")
    tab_to(shown, "plane")
    assert visible_planes(shown) == []
    shown.key("Home")
    assert text(shown, "now-plane") == "z = 2"
    # Dial 0.75 lies between raw and the first iteration; the raw image left of the divider is
    # that of the plane.
    assert visible_planes(shown) == [["z = 2", "0", "1"], ["z = 2", "1", "0.6501"]]
    assert visible_frame(shown) == ""
    left = "[...document.querySelectorAll('[data-raw], #raw')].filter(f => !f.hidden)"
    assert shown.evaluate(f"{left}.map(f => f.dataset.raw || f.id)") == ["z = 2"]
    assert shown.evaluate("document.getElementById('elsewhere').hidden") is False
    tab_to(shown, "dial")
    shown.key("End")
    assert visible_planes(shown) == [["z = 2", "2", "1"]]
    tab_to(shown, "plane")
    shown.key("ArrowRight")
    assert text(shown, "now-plane") == "z = 7, judged"
    assert visible_planes(shown) == []
    assert visible_frame(shown) == "2"
    shown.key("End")
    assert visible_planes(shown) == [["z = 11", "2", "1"]]
    shown.key("ArrowLeft")


def visible_tints(shown: Page) -> list[str]:
    return shown.evaluate(
        "[...document.querySelectorAll('[data-tint]')].filter(f => !f.hidden)"
        ".map(f => f.dataset.tint)"
    )


def test_the_map_of_agreement_follows_the_dial(shown: Page) -> None:
    again(shown)
    assert visible_tints(shown) == []
    legend = "document.getElementById('agree-legend').hidden"
    assert shown.evaluate(legend) is True
    tab_to(shown, "agree")
    shown.evaluate("document.activeElement.click(); 0")
    assert visible_tints(shown) == ["1"]
    assert shown.evaluate(legend) is False
    assert shown.described("#agree")["name"] == "Show where added detail is noise"
    tab_to(shown, "dial")
    shown.key("End")
    assert visible_tints(shown) == ["3"]
    # Of other planes there is no map, and that is said.
    tab_to(shown, "plane")
    shown.key("Home")
    assert visible_tints(shown) == []
    assert shown.evaluate("document.getElementById('agree-elsewhere').hidden") is False
    again(shown)


def test_the_dial_is_a_command_to_copy(shown: Page) -> None:
    tab_to(shown, "dial")
    shown.key("Home")
    assert text(shown, "command") == f"{PREDICT} --dial 0"
    shown.key("ArrowRight", 1)
    assert text(shown, "command") == f"{PREDICT} --dial 0.75"
    tab_to(shown, "copy")
    x, y = shown.evaluate(
        "(b => [b.left + b.width / 2, b.top + b.height / 2])"
        "(document.activeElement.getBoundingClientRect())"
    )
    # As a hand does it: a browser gives its clipboard to nobody else.
    for kind in ("mousePressed", "mouseReleased"):
        shown.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )
    said = (
        "new Promise(done => { let n = 0; const look = () => {"
        "const word = document.getElementById('copy').textContent;"
        "if (word === 'Copied' || ++n > 100) { done(word) } else { setTimeout(look, 20) } };"
        "look() })"
    )
    assert shown.evaluate(said) == "Copied"


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("dial", "Dial", "dial 0"),
        ("cut", "Divider", "percent raw"),
        ("plane", "Plane", "z = 2"),
    ],
)
def test_a_screen_reader_is_told_what_moves(shown: Page, name: str, label: str, value: str) -> None:
    tab_to(shown, name)
    shown.key("Home")
    told = shown.described(f"#{name}")
    assert told["role"] == "slider"
    assert told["name"].startswith(label)
    spoken = shown.evaluate(f"document.getElementById('{name}').getAttribute('aria-valuetext')")
    assert value in spoken
    assert told["focusable"]


def test_pictures_and_plots_have_words(shown: Page) -> None:
    without = shown.evaluate("[...document.images].filter(i => !i.alt.trim()).length")
    assert without == 0
    unnamed = shown.evaluate(
        "[...document.querySelectorAll('svg[role=img]')]"
        ".filter(s => !s.querySelector('title')).length"
    )
    assert unnamed == 0


def test_the_warning_and_how_to_reproduce_are_there_to_see(shown: Page) -> None:
    seen = shown.evaluate("document.body.innerText")
    assert "unlike those the model was trained for" in seen
    assert COMMAND in seen


def test_a_small_screen_needs_no_sideways_scrolling(shown: Page) -> None:
    shown.call(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    try:
        wide = shown.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0
    finally:
        shown.call("Emulation.clearDeviceMetricsOverride")


def test_a_large_image_stays_light(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Previews are reduced to this side; noise is what compresses least.
    side = 1024
    pixels = np.clip(rng.normal(90, 25, (side, side)), 0, 255).astype(np.uint8)
    picture = Preview(height=side, width=side, pixels=pixels.tobytes())
    html = render_report(evaluation(window=(0, 0, 2048, 2048), previews=(picture,) * 4))
    assert len(html) < 4 * 2e6
    coded = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)
    assert len(coded) >= 4
    assert base64.b64decode(coded[0])[:2] == b"\xff\xd8"
    browser = find_browser()
    if browser is None:
        require("there is no Chromium on this machine, and DCBMZ_BROWSER names none")
    assert browser is not None
    file = tmp_path / "large.html"
    file.write_text(html, encoding="utf-8")
    with page(browser) as opened:
        opened.open(file)
        tab_to(opened, "dial")
        opened.key("End")
        assert visible_frame(opened) == "2"
        assert opened.problems == []
