"""Planes on the page: before and after with a dial to slide, the reference, the residual map."""

from __future__ import annotations

__all__ = ["data_uri", "more_pictures", "viewer"]

import base64
import io
import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.image import imsave

from deepcontrast_bmz.evaluate.report.tables import CONTRAST_GAIN, cell
from deepcontrast_bmz.evaluate.report.words import MINUS, dial_word, number, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepcontrast_bmz.evaluate.records import DialScores, Evaluation, Preview, Price

SMALL_SIDE = 400
"""Pictures up to this side are stored without loss, larger ones as JPEG."""
_JPEG = {"quality": 88, "optimize": True, "progressive": True}
"""The last two save an eighth of the bytes and change no pixel."""


def data_uri(picture: Preview) -> str:
    """Return a picture as a data URI: PNG when small, else JPEG.

    Parameters
    ----------
    picture : Preview
        8-bit grey values.
    """
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width)
    small = max(pixels.shape) <= SMALL_SIDE
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if small else {"pil_kwargs": _JPEG}
    # Three equal channels: a grey colour map would round the levels.
    colours = np.repeat(pixels[..., None], 3, axis=2)
    imsave(buffer, colours, format="png" if small else "jpg", **options)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _scale_bar(evaluation: Evaluation) -> str:
    """Return a bar of a round length, about a fifth of the image wide."""
    if evaluation.pixel_size_um is None:
        return ""
    width_um = evaluation.window[3] * evaluation.pixel_size_um
    power = 10.0 ** math.floor(math.log10(width_um / 5))
    length = max(power * m for m in (1, 2, 5) if power * m <= width_um / 5)
    share = 100 * length / width_um
    return f'<span class="scale" style="width:{share:.2f}%">{length:g} µm</span>'


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _detail_words(evaluation: Evaluation, row: DialScores) -> str:
    if evaluation.price == "forward_consistency":
        return "unmeasurable"
    return number(getattr(row, evaluation.price))


_DETAIL: Mapping[Price, str] = {
    "reference_middle": "Detail vs reference",
    "detail_fine": "Detail, fine",
    "detail_coarse": "Detail, coarse",
    "forward_consistency": "Detail",
}
"""As the columns of the table are called."""


def viewer(evaluation: Evaluation) -> str:
    """Return the section in which the dial is moved and the raw image uncovered.

    Parameters
    ----------
    evaluation : Evaluation
        With its previews.
    """
    raw, *_ = evaluation.previews
    crisp = ' class="crisp"' if max(raw.height, raw.width) <= SMALL_SIDE else ""
    frames: list[str] = []
    start = 0
    for place, (row, picture) in enumerate(
        zip(evaluation.scores, evaluation.previews, strict=True)
    ):
        chosen = row is evaluation.chosen
        start = place if chosen else start
        values = {
            "dial": dial_word(row.dial),
            "gain": cell(row, CONTRAST_GAIN),
            "detail": _detail_words(evaluation, row),
            "fc": number(row.forward_consistency),
            "verdict": row.verdict,
            "why": _sentence(reason(row)),
        }
        values["words"] = (
            f"dial {values['dial']}{', automatic' if chosen else ''}: contrast gain "
            f"{values['gain']}, detail {values['detail']}, {row.verdict}"
        )
        data = "".join(f' data-{key}="{escape(value)}"' for key, value in values.items())
        frames.append(
            f'<img{crisp} decoding="sync" data-frame="{place}"{data} '
            f'alt="Image at dial {values["dial"]}, contrast gain {values["gain"]}, {row.verdict}" '
            f'src="{data_uri(picture)}"'
            f"{'' if chosen else ' hidden'}>"
        )
    now = evaluation.chosen
    labels = {
        "dial": ("Dial", dial_word(now.dial)),
        "gain": ("Contrast gain", cell(now, CONTRAST_GAIN)),
        "detail": (_DETAIL[evaluation.price], _detail_words(evaluation, now)),
        "fc": ("Forward consistency", number(now.forward_consistency)),
        "verdict": ("Verdict", now.verdict),
    }
    readout = "".join(
        f'<dt>{name}</dt><dd id="now-{key}">{escape(value)}</dd>'
        for key, (name, value) in labels.items()
    )
    auto = dial_word(now.dial)
    return f"""
<section aria-labelledby="see">
<h2 id="see">Before and after</h2>
<div class="viewer">
<figure>
<div class="stage" id="stage" style="aspect-ratio:{raw.width}/{raw.height}">
<img{crisp} alt="Raw image" src="{data_uri(raw)}">
<div class="after">{"".join(frames)}</div>
<span class="handle" aria-hidden="true"></span>
<span class="tag left" aria-hidden="true">raw</span>
<span class="tag right" id="tag" aria-hidden="true">dial {auto}</span>
{_scale_bar(evaluation)}
</div>
<figcaption>Left of the divider the raw image, right of it the chosen dial; both between the same
black and white.</figcaption>
</figure>
<div class="panel">
<label for="dial">Dial <span>0 to {dial_word(evaluation.scores[-1].dial)}</span></label>
<input type="range" id="dial" min="0" max="{len(evaluation.scores) - 1}" step="1" value="{start}"
 aria-label="Dial, optical depth removed" aria-valuetext="dial {auto}">
<label for="cut">Divider <span id="now-cut">50 % raw</span></label>
<input type="range" id="cut" min="0" max="100" step="1" value="50"
 aria-label="Divider between the raw and the enhanced image" aria-valuetext="50 percent raw">
<dl class="readout">{readout}</dl>
<p class="why" id="now-why">{escape(_sentence(reason(now)))}</p>
<button type="button" id="auto">Automatic dial {auto}</button>
<noscript><p>Moving the dial needs scripts; the automatic dial is shown.</p></noscript>
</div>
</div>
</section>"""


def more_pictures(evaluation: Evaluation) -> str:
    """Return the section with the reference and the residual map, empty if there is neither.

    Parameters
    ----------
    evaluation : Evaluation
    """
    figures: list[str] = []
    names: list[str] = []
    if evaluation.reference_preview is not None:
        names.append("reference")
        figures.append(
            '<figure><div><img alt="Reference image" '
            f'src="{data_uri(evaluation.reference_preview)}"></div>'
            "<figcaption>The reference, scaled to the grey values of the automatic dial."
            "</figcaption></figure>"
        )
    residual = evaluation.residual_preview
    # In units of noise: without measurable noise there is none.
    if residual is not None and evaluation.chosen.forward_consistency is not None:
        names.append("residual map")
        figures.append(
            f'<figure><div><img alt="Residual map at dial {dial_word(evaluation.chosen_dial)}" '
            f'src="{data_uri(residual)}">{_RAMP}</div><figcaption>{_residual_words(evaluation)}'
            "</figcaption></figure>"
        )
    if not figures:
        return ""
    return f"""
<section aria-labelledby="more">
<h2 id="more">{" and ".join(names).capitalize()}</h2>
<div class="pair">{"".join(figures)}</div>
</section>"""


_RAMP = (
    f'<div class="ramp" aria-hidden="true"><span>{MINUS}6</span><span>0</span><span>6</span></div>'
)


def _residual_words(evaluation: Evaluation) -> str:
    words = (
        f"What dial {dial_word(evaluation.chosen_dial)} does not explain: the recording minus the "
        "enhanced image seen through the model tissue again, smoothed over 2 px, in standard "
        "deviations of the noise left by that. White: light is missing; black: there is too much. "
        "Even grey is good; outlines and patches are not."
    )
    share = evaluation.chosen.flagged_share
    if share is None:
        return words
    return f"{words} {number(100 * share, 1)} % of the pixels lie beyond {MINUS}4 or 4."
