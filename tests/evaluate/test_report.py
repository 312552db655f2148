from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from descriptions import described
from matplotlib.image import imread

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate.records import DialScores, Evaluation, Preview
from deepcontrast_bmz.evaluate.report import (
    data_uri,
    evaluate_files,
    files,
    render_report,
    scores_csv,
    summary,
    write_evaluation,
)
from deepcontrast_bmz.evaluate.report.curve import HEIGHT, WIDTH, round_ticks
from deepcontrast_bmz.evaluate.report.drawing import PALETTE
from deepcontrast_bmz.evaluate.report.pictures import TINT
from deepcontrast_bmz.evaluate.report.words import TIMES
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.physics.noise import NoiseModel
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.settings import Scatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from deepcontrast_bmz.dial.verdict import Verdict


def row(dial: float, verdict: Verdict = "ok", **changes: Any) -> DialScores:
    values: dict[str, Any] = {
        "dial": dial,
        "contrast_gain": 1 + 0.8 * dial,
        "contrast_gain_with_noise": 1 + 0.9 * dial,
        "michelson_gain": 1 + 0.7 * dial,
        "contrast_recovery": 0.5 + 0.3 * dial,
        "detail_fine": None,
        "detail_coarse": 0.98 - 0.03 * dial,
        "transfer_fine": None,
        "transfer_coarse": 1 + dial,
        "forward_consistency": 1 + 0.02 * dial**2,
        "systematic_misfit": 0.1 * dial,
        "flagged_share": 0.00123 * dial,
        "reference_fine": 0.6,
        "reference_coarse": 0.8,
        "reference_middle": 0.7 + 0.1 * dial,
        "psnr": 20.0,
        "psnr_after_fit": 22.0 + dial,
        "ssim": 0.8,
        "average_precision": 0.9,
        "verdict": verdict,
    }
    return DialScores.model_validate(values | changes)


def preview(seed: int, side: int = 24) -> Preview:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 4), dtype=np.uint8)
    return Preview(height=side, width=side + 4, pixels=pixels.tobytes())


REFERENCE_ONLY = dict.fromkeys(
    [
        "contrast_recovery",
        "reference_fine",
        "reference_coarse",
        "reference_middle",
        "psnr",
        "psnr_after_fit",
        "ssim",
        "average_precision",
    ]
)


def evaluation(*, reference: bool = True, **changes: Any) -> Evaluation:
    without: dict[str, Any] = {} if reference else dict(REFERENCE_ONLY)
    rows = (
        row(0, **without),
        row(0.75, **without),
        row(1, "over-enhanced", why="its contrast is 1.30 times the reference's")
        if reference
        else row(1, **without),
        row(2, "inconsistent", **without),
    )
    values: dict[str, Any] = {
        "version": "0",
        "image": "deep <b> & 'layer'.tif",
        "model": "my model",
        "weights_format": "onnx",
        "step_optical_depth": 1.0,
        "iterations": 2,
        "plane": {"z": 7},
        "plane_reason": "the plane with the most content of 12",
        "window": (0, 0, 24, 28),
        "pixel_size_um": 0.5,
        "offset": 100.0,
        "reference": "shallow.tif" if reference else None,
        "reference_offset": 0.0 if reference else None,
        "noise": NoiseModel(slope=1, intercept=-100, floor=1),
        "reliability_fine": 0.02,
        "reliability_coarse": 0.6,
        "chosen_dial": 0.75,
        "chosen_reason": "beyond 0.75 the background sinks",
        "chosen_confidence": 0.5,
        "scores": rows,
        "previews": tuple(preview(seed) for seed in range(4)),
        "reference_preview": preview(8) if reference else None,
        "residual_preview": preview(9),
    }
    return Evaluation.model_validate(values | changes)


class Page(HTMLParser):
    """What a page consists of."""

    void = frozenset({"meta", "img", "input", "br", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


COMMAND = "dcbmz evaluate model.zip 'a <b>.tif' -o out"


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(
        evaluation(),
        command=COMMAND,
        sections=[
            ("Parity & <more>", [["Program", "Result"], ["Fiji", "passed <3"], ["QuPath", 1.5]]),
            ("Notes", "First `code <i>`.\n\nSecond."),
        ],
    )


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# -- the page -----------------------------------------------------------------------------------


def test_nothing_is_fetched_from_anywhere(html: str, page: Page) -> None:
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    assert len(without_pictures) < len(html) / 1.2
    assert not re.search(r"https?:|//|url\(|@import", without_pictures)
    for tag in ("link", "iframe", "object", "embed", "base", "form"):
        assert page.all(tag) == []
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/")
    policy = next(m for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in (policy["content"] or "")


def test_the_page_is_a_whole_document_with_one_title(html: str, page: Page) -> None:
    assert html.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert {"charset": "utf-8"} in page.all("meta")
    assert "prefers-color-scheme:dark" in html


def test_ids_are_unique_and_all_references_meet_one(html: str, page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
    wanted = set(re.findall(r'getElementById\("([\w-]+)"\)', html))
    # These are there where the image is a stack, the command is known, or there are maps.
    assert wanted - set(ids) == {
        *("plane", "now-plane", "elsewhere", "command", "copy"),
        *("agree", "agree-legend", "agree-elsewhere"),
    }


def stack_of(*numbers: int) -> dict[str, Any]:
    """What an evaluation has of a stack: planes along z, raw and two iterations each."""
    planes = [
        {"number": z, "pictures": tuple(preview(10 * z + k) for k in range(3))} for z in numbers
    ]
    return {"stack_axis": "z", "stack": planes}


def test_a_stack_has_a_slider_for_its_planes() -> None:
    stacked = evaluation(agreement=tuple(preview(seed) for seed in range(4)), **stack_of(2, 11))
    html = render_report(stacked, predict="dcbmz predict m 'a b.tif'")
    page = Page(html)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'getElementById\("([\w-]+)"\)', html)) <= set(ids)
    (slider,) = [one for one in page.all("input") if one.get("id") == "plane"]
    # The judged plane, 7, lies between.
    assert (slider["value"], slider["max"]) == ("1", "2")
    assert slider["data-labels"] == "z = 2|z = 7|z = 11"
    assert "z = 7, judged" in page.text
    pictures = [one for one in page.all("img") if "data-plane" in one]
    assert len(pictures) == 2 * 3
    assert all(one["alt"] for one in page.all("img"))
    assert "dcbmz predict m 'a b.tif' --dial 0.75" in page.text
    frames = [one for one in page.all("img") if "data-frame" in one]
    assert [one["data-below"] for one in frames] == ["0", "0", "1", "2"]
    # (e^0.75 - 1) / (e - 1)
    assert [one["data-weight"] for one in frames] == ["0.0000", "0.6501", "0.0000", "0.0000"]


def test_the_maps_of_agreement_lie_over_the_pictures_when_asked_for() -> None:
    agreed = Preview(height=64, width=32, pixels=bytes([0] * 1024 + [255] * 1024))
    html = render_report(evaluation(agreement=(agreed,) * 4))
    page = Page(html)
    tints = [one for one in page.all("img") if "data-tint" in one]
    assert [one["data-tint"] for one in tints] == ["0", "1", "2", "3"]
    assert all("hidden" in one and one["alt"] for one in tints)
    (box,) = [one for one in page.all("input") if one.get("type") == "checkbox"]
    assert box["id"] == "agree"
    assert "Orange, 0: it is in one half only, so it is noise." in page.text
    # Nothing is added where the halves agree, the tint where they do not.
    coded = str(tints[0]["src"]).split(",")[1]
    light = imread(io.BytesIO(base64.b64decode(coded)), format="jpg").astype(int)
    assert np.abs(light[:24] - TINT).max() < 4
    assert light[-24:].max() < 4
    assert "agreement" not in evaluation(agreement=(agreed,) * 4).model_dump_json()
    assert not [one for one in Page(render_report(evaluation())).all("img") if "data-tint" in one]


def test_the_pictures_of_a_stack_are_not_in_the_json() -> None:
    kept = Evaluation.model_validate_json(evaluation(**stack_of(2)).model_dump_json())
    assert kept.stack == ()
    assert "stack" not in evaluation(**stack_of(2)).model_dump_json()


def test_every_section_has_a_heading_that_names_it(page: Page) -> None:
    headings = {a["id"] for a in page.all("h2")}
    assert [a["aria-labelledby"] for a in page.all("section")] == [a["id"] for a in page.all("h2")]
    assert {"section-1", "section-2"} <= headings


def test_every_picture_says_what_it_shows(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 1 + 4 + 2
    assert len({image["alt"] for image in images}) == len(images)
    for image in images:
        assert image["alt"]
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing["role"] == "img"


def test_both_sliders_can_be_reached_and_read_aloud(page: Page) -> None:
    dial, cut = page.all("input")
    assert (dial["type"], cut["type"]) == ("range", "range")
    assert (dial["min"], dial["max"], dial["value"]) == ("0", "3", "1")
    for slider in (dial, cut):
        assert slider["aria-label"]
        assert slider["aria-valuetext"]
        assert "tabindex" not in slider
    assert {a.get("for") for a in page.all("label")} == {"dial", "cut"}


def test_only_the_automatic_dial_is_shown_before_anything_is_moved(html: str, page: Page) -> None:
    frames = [image for image in page.all("img") if "data-frame" in image]
    assert [frame["data-dial"] for frame in frames] == ["0", "0.75", "1", "2"]
    assert ["hidden" in frame for frame in frames] == [True, False, True, True]
    # Any rule that sets `display` would show them all again.
    assert "[hidden]{display:none!important}" in html
    assert frames[1]["data-gain"] == f"1.60{TIMES}"
    assert len(page.all("noscript")) == 1


def test_the_table_has_heads_and_every_gain_beside_its_price(page: Page) -> None:
    head, *rows = page.rows[:5]
    assert head[:3] == ["Dial", "Contrast gain", "Contrast recovery"]
    assert {"Forward consistency", "Detail, coarse", "Verdict"} <= set(head)
    assert all(len(cells) == len(head) for cells in rows)
    scopes = [a.get("scope") for a in page.all("th")]
    assert set(scopes) == {"col", "row"}
    assert rows[1][:3] == ["0.75 automatic", f"1.60{TIMES}", "0.72"]
    assert rows[1][head.index("Detail, fine")] == "unmeasurable"
    assert rows[1][head.index("Systematic misfit")] == "0.08"
    assert [cells[-1] for cells in rows] == ["ok", "ok", "over-enhanced", "inconsistent"]
    chosen = [a for a in page.all("tr") if a.get("aria-current") == "true"]
    assert len(chosen) == 1


def test_what_the_user_named_is_shown_as_text(html: str, page: Page) -> None:
    assert page.all("b") == page.all("i") == []
    assert "deep <b> & 'layer'.tif" in page.text
    assert COMMAND in page.text
    assert "Parity & <more>" in page.text
    assert "First code <i>." in page.text
    assert "<code>code &lt;i&gt;</code>" in html


def test_further_sections_hold_text_and_tables(page: Page) -> None:
    assert page.rows[-3:] == [["Program", "Result"], ["Fiji", "passed <3"], ["QuPath", "1.5"]]


def curve_of(html: str) -> str:
    start = html.index('aria-labelledby="price-title')
    return html[start : html.index("</svg>", start)]


MARK = r'<g class="(ring|m \w+)"><path d="([^"]+)"'
"""A shape in a plot: its class and its path."""


def centre(path: str) -> tuple[float, float]:
    """Return the middle of a path's box, in pixels."""
    numbers = np.array([float(n) for n in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)
    x, y = (numbers.min(0) + numbers.max(0)) / 2
    return float(x), float(y)


def marked_places(curve: str) -> list[tuple[float, float]]:
    return [centre(path) for _, path in re.findall(MARK, curve)]


def test_the_curve_marks_every_dial_and_rings_the_automatic_one(html: str) -> None:
    curve = curve_of(html)
    assert curve.count('class="ring"') == 1
    assert ">auto 0.75</text>" in curve
    marks = re.findall(r'class="m (\w+)"', curve)
    assert marks == ["ok", "ok", "over", "off"]
    assert len(marked_places(curve)) == 5
    for x, y in marked_places(curve):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_marks_stand_where_their_values_are(html: str) -> None:
    """Gains 1, 1.6, 1.8, 2.6 from left to right, detail 0.7, 0.775, 0.8, 0.9 upwards."""
    places = [place for name, *place in re.findall(MARK, curve_of(html)) if name != "ring"]
    xs, ys = np.array([centre(path) for (path,) in places]).T
    np.testing.assert_allclose(
        (xs - xs[0]) / (xs[-1] - xs[0]), np.array([0, 6, 8, 16]) / 16, atol=0.02
    )
    np.testing.assert_allclose(
        (ys - ys[0]) / (ys[-1] - ys[0]), np.array([0, 3, 4, 8]) / 8, atol=0.02
    )
    assert xs[-1] > xs[0]
    assert ys[-1] < ys[0]


def test_plots_have_the_colours_of_the_page_and_refer_to_nothing(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) > 6
    light, _, dark = html.partition("prefers-color-scheme:dark")
    for drawing in drawings:
        for word in ("xmlns", "href", "font-family"):
            assert word not in drawing
        # By variables, which are others in the dark.
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b", drawing)
        used = set(re.findall(r"var\(--(\w+)\)", drawing))
        assert used <= set(PALETTE)
        assert used
        for name in used:
            assert f"--{name}:" in dark
    for name, colour in PALETTE.items():
        assert f"--{name}:{colour}" in light


def test_plots_do_not_depend_on_how_a_user_draws() -> None:
    usual = render_report(evaluation())
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        assert render_report(evaluation()) == usual


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    write_evaluation(evaluation(image="a$_{$b.tif"), tmp_path)
    assert imread(tmp_path / "curve.png").shape[0] > 400


def test_scale_bar_needs_a_pixel_size_and_has_a_round_length(html: str) -> None:
    assert 'style="width:14.29%">2 µm<' in html
    assert "µm" not in render_report(evaluation(pixel_size_um=None))


def test_without_a_reference_no_column_speaks_of_one() -> None:
    page = Page(render_report(evaluation(reference=False)))
    assert "Contrast recovery" not in page.text
    assert "PSNR" not in page.text
    assert "detail retention (split halves, 1.6-5 px)" in page.text


def test_without_pictures_the_numbers_remain() -> None:
    stored = Evaluation.model_validate_json(evaluation().model_dump_json())
    page = Page(render_report(stored))
    assert page.all("img") == page.all("input") == page.all("script") == []
    assert len(page.all("table")) == 1


def test_unmeasurable_images_still_make_a_page() -> None:
    nothing = dict.fromkeys(
        ["contrast_gain", "detail_coarse", "forward_consistency", "systematic_misfit"]
    )
    rows = tuple(
        row(dial, "unmeasurable", **nothing, **dict(REFERENCE_ONLY)) for dial in (0, 0.75, 1, 2)
    )
    page = Page(render_report(evaluation(reference=False, scores=rows)))
    assert "unmeasurable" in page.text
    assert "nan" not in page.text.lower().split()
    assert [a for a in page.all("svg") if a.get("role") == "img"] == []


def test_one_dial_alone_is_drawn_too() -> None:
    rows = (row(0),)
    page = Page(render_report(evaluation(scores=rows, previews=(preview(1),), chosen_dial=0.0)))
    assert "NaN" not in page.text
    assert page.all("input")[0]["max"] == "0"


def test_the_verdict_stands_at_the_top_and_a_refusal_is_marked() -> None:
    refused = Page(render_report(evaluation(chosen_dial=1.0)))
    assert {"class": "verdict refused"} in refused.all("p")
    assert "Verdict: over-enhanced, its contrast is 1.30 times the reference's." in refused.text
    assert {"class": "verdict"} in Page(render_report(evaluation())).all("p")
    assert "Verdict: " not in Page(render_report(evaluation(chosen_dial=0.0))).text


def test_the_page_tells_which_part_is_judged_and_why() -> None:
    stack = Page(render_report(evaluation()))
    assert "z = 7, counted from 0 (the plane with the most content of 12)" in stack.text
    assert "One plane of the stack is judged" in stack.text
    assert "Size28 \N{MULTIPLICATION SIGN} 24 pxModel" in stack.text
    assert "100 counts (estimated)" in stack.text
    single = evaluation(
        plane={}, plane_reason="the only plane", plane_shape=(99, 88), window=(5, 6, 24, 28)
    )
    page = Page(render_report(single.model_copy(update={"offset": -0.001})))
    assert "One plane of the stack" not in page.text
    assert "of 88 \N{MULTIPLICATION SIGN} 99 px, from column 6 and row 5" in page.text
    assert "Camera offset0 counts" in page.text


def test_a_residual_map_needs_noise_and_says_how_much_it_flags(html: str) -> None:
    assert "0.1 % of the pixels lie beyond" in html
    rows = tuple(row(dial, forward_consistency=None) for dial in (0, 0.75, 1, 2))
    assert "Residual map" not in render_report(evaluation(scores=rows))


def test_labels_of_a_curve_do_not_lie_upon_each_other() -> None:
    rows = tuple(
        row(dial, contrast_gain=1 + 0.01 * dial, reference_middle=0.7) for dial in range(9)
    )
    rows = (*rows, row(9, contrast_gain=3.0, reference_middle=0.7))
    html = render_report(evaluation(scores=rows, previews=(), chosen_dial=3.0))
    labels = r'<g class="(?:auto|dial)"><text[^>]*>([^<]+)<'
    assert re.findall(labels, curve_of(html)) == ["auto 3", "9"]


# -- words, tables, pictures ----------------------------------------------------------------------


def test_the_summary_gives_the_gain_with_its_price_in_plain_words() -> None:
    words = summary(evaluation())
    assert words.startswith("At the automatic dial 0.75 the contrast is 1.60 times the raw image's")
    for part in ("72 % of the reference's", "(raw 0.70)", "forward consistency is 1.01", "ok"):
        assert part in words
    assert "coarse detail is retained at 0.96" in summary(evaluation(reference=False))
    assert "should stay as it is" in summary(evaluation(chosen_dial=0.0))


def test_csv_has_a_row_per_dial_and_leaves_the_unmeasurable_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv(evaluation()))))
    assert [r["dial"] for r in rows] == ["0", "0.75", "1", "2"]
    assert [r["automatic"] for r in rows] == ["0", "1", "0", "0"]
    assert rows[1]["detail_fine"] == ""
    assert float(rows[1]["contrast_gain"]) == pytest.approx(1.6)
    assert rows[3]["verdict"] == "inconsistent"


@pytest.mark.parametrize(("side", "kind"), [(24, "png"), (500, "jpeg")])
def test_pictures_are_stored_as_they_are_when_small_and_closely_when_large(
    side: int, kind: str
) -> None:
    y, x = np.mgrid[:side, : side + 4]
    pixels = ((x + y) * 255 / (2 * side + 2)).astype(np.uint8)
    uri = data_uri(Preview(height=side, width=side + 4, pixels=pixels.tobytes()))
    start = f"data:image/{kind};base64,"
    assert uri.startswith(start)
    decoded = imread(io.BytesIO(base64.b64decode(uri.removeprefix(start))), format=kind)
    grey = decoded[..., 0].astype(np.float64) * (255 if kind == "png" else 1)
    assert grey.shape == (side, side + 4)
    assert np.abs(grey - pixels).max() <= (1e-4 if kind == "png" else 4)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.97, 1.31), (1, 38), (-0.2, 0.9), (2, 2), (0, 0.003)]
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    found = round_ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert len(found) <= 8
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0] if steps.size else 0, rtol=1e-6)


# -- files ----------------------------------------------------------------------------------------


def test_all_four_files_are_written_and_say_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    written = write_evaluation(evaluation(), folder, command=COMMAND)
    names = ["scores.csv", "scores.json", "curve.png", "report.html"]
    assert written == [folder / name for name in names]
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    record = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert record["scores"][1]["contrast_gain"] == pytest.approx(1.6)
    assert Evaluation.model_validate(record).chosen_dial == 0.75
    assert imread(folder / "curve.png").shape[0] > 400
    assert (folder / "report.html").read_text(encoding="utf-8") == render_report(
        evaluation(), command=COMMAND
    )


def test_writing_again_replaces_ours_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    write_evaluation(evaluation(), tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_evaluation(evaluation(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
    assert first["mine.txt"] == b"keep"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("no plot")

    monkeypatch.setattr(files, "price_png", fail)
    with pytest.raises(RuntimeError, match="no plot"):
        write_evaluation(evaluation(), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        write_evaluation(evaluation(), path)


class Stretch:
    """Stands in for trained weights: iteration k stretches the image k + 1 times."""

    device = "cpu"
    block = 512

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        m = 2 * iterations
        image, mean = extended[:, :, m:-m, m:-m], extended.mean()
        return torch.cat([mean + (k + 1) * (image - mean) for k in range(1, iterations + 1)], 1)


@pytest.fixture(scope="module")
def model() -> Model:
    description = described(scatter=Scatter(widths=(2.0,), weights=(1.0,)))
    return Model(
        name="stretch",
        description=description,
        weights_format="onnx",
        device="cpu",
        max_iterations=None,
        radius=2,
        multiple=1,
        runner=Stretch(),
    )


def save(path: Path, shape: Sequence[int] = (40, 48)) -> Path:
    rng = np.random.default_rng(1)
    truth = 200 * np.broadcast_to(phantom("nuclei", (40, 48), rng), shape)
    counts = rng.poisson(truth + 100).astype(np.uint16)
    write_image(xr.DataArray(counts, dims=("c", "y", "x")[-len(shape) :]), path)
    return path


def test_one_image_fills_the_folder_and_is_told_in_words(tmp_path: Path, model: Model) -> None:
    image = save(tmp_path / "deep.ome.tif")
    lines = list(evaluate_files(model, [image], tmp_path / "out", reference=image))
    assert lines[0].startswith("deep.ome.tif: ")
    assert "automatic dial" in lines[0]
    assert lines[1] == f"deep.ome.tif: see {tmp_path / 'out' / 'report.html'}"
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "dcbmz evaluate stretch deep.ome.tif -o out --reference deep.ome.tif" in page.text
    assert str(tmp_path) not in page.text


def test_several_images_have_a_folder_each(tmp_path: Path, model: Model) -> None:
    images = [save(tmp_path / name, (2, 40, 48)) for name in ("a.1.tif", "a.2.ome.tif")]
    done: list[float] = []
    lines = list(evaluate_files(model, images, tmp_path / "out", channel=1, progress=done.append))
    assert len(lines) == 4
    assert done == sorted(done)
    assert 0.5 in done
    assert done[-1] == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.1", "a.2"]
    assert (tmp_path / "out" / "a.2" / "scores.csv").is_file()
    page = (tmp_path / "out" / "a.1" / "report.html").read_text(encoding="utf-8")
    assert "-o a.1 --channel 1" in page


def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(
    tmp_path: Path, model: Model
) -> None:
    first = save(tmp_path / "a.tif")
    (tmp_path / "b").mkdir()
    second = save(tmp_path / "b" / "a.ome.tif")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="reference of one image, but 2"):
        list(evaluate_files(model, [first, second], out, reference=first))
    with pytest.raises(InputError, match="2 images are called 'a'"):
        list(evaluate_files(model, [first, second], out))
    channels = save(tmp_path / "c.tif", (2, 40, 48))
    with pytest.raises(InputError, match="--channel"):
        list(evaluate_files(model, [channels], out))
    assert not out.exists()
