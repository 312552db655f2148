"""Pictures of the page: one per dial, the reference and the residual map."""

from __future__ import annotations

__all__ = [
    "Frame",
    "ScaleBar",
    "StackPlane",
    "data_uri",
    "describe_residual",
    "is_small",
    "list_planes",
    "make_frame",
    "make_frames",
    "make_scale_bar",
    "tint_uri",
]

import base64
import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.image import imsave

from deepcontrast_bmz.evaluate.report.tables import CONTRAST_GAIN, format_score
from deepcontrast_bmz.evaluate.report.words import MINUS, dial_word, number, reason
from deepcontrast_bmz.model.loop import dial_position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepcontrast_bmz.evaluate.records import DialScores, Evaluation, Preview

SMALL_SIDE = 400
"""Pictures up to this side are stored without loss, larger ones as JPEG."""
_JPEG = {"quality": 88, "optimize": True, "progressive": True}
"""The last two save an eighth of the bytes and change no pixel."""
TINT = (255, 122, 0)
"""What is added to a picture where the halves of the light do not agree at all; page.css has the
same colour in its legend."""


class Frame(NamedTuple):
    """What the page shows of one dial, in words."""

    dial: str
    gain: str
    detail: str
    consistency: str
    verdict: str
    why: str
    chosen: bool
    below: int
    """Iteration below the dial, 0 for the raw image, of planes that are blended by the page."""
    weight: str
    """How far to go to the next iteration, 0 to 1."""

    @property
    def spoken(self) -> str:
        """What a screen reader says when the dial is moved there."""
        return (
            f"dial {self.dial}{', automatic' if self.chosen else ''}: contrast gain {self.gain}, "
            f"detail {self.detail}, {self.verdict}"
        )


class ScaleBar(NamedTuple):
    """A bar of a round length."""

    percent: str
    """Of the width of the picture."""
    length_um: str


def is_small(picture: Preview) -> bool:
    """Return whether a picture is stored without loss, and shown with sharp pixels."""
    return max(picture.height, picture.width) <= SMALL_SIDE


def data_uri(picture: Preview, *, light: bool = False) -> str:
    """Return a picture as a data URI: PNG when small, else JPEG.

    Parameters
    ----------
    picture : Preview
        8-bit grey values.
    light : bool
        JPEG in any case: one of many.
    """
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width)
    # Three equal channels: a grey colour map would round the levels.
    colours = np.repeat(pixels[..., None], 3, axis=2)
    return _encode(colours, lossless=is_small(picture) and not light)


def tint_uri(agreement: Preview) -> str:
    """Return a map of agreement as light to be added to a picture: none where the halves agree.

    Parameters
    ----------
    agreement : Preview
        0 (none) to 255 (the same detail in both halves).
    """
    pixels = np.frombuffer(agreement.pixels, np.uint8).reshape(agreement.height, agreement.width)
    missing = 1 - pixels[..., None] / 255
    return _encode(np.rint(missing * np.array(TINT)).astype(np.uint8), lossless=False)


def _encode(colours: NDArray[np.uint8], *, lossless: bool) -> str:
    """Return (Y, X, 3) as a data URI: PNG without loss, else JPEG."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if lossless else {"pil_kwargs": _JPEG}
    imsave(buffer, colours, format="png" if lossless else "jpg", **options)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def make_scale_bar(evaluation: Evaluation) -> ScaleBar | None:
    """Return a bar of about a fifth of the image's width; None without a pixel size."""
    if evaluation.pixel_size_um is None:
        return None
    width_um = evaluation.window[3] * evaluation.pixel_size_um
    power = 10.0 ** math.floor(math.log10(width_um / 5))
    length = max(power * m for m in (1, 2, 5) if power * m <= width_um / 5)
    return ScaleBar(f"{100 * length / width_um:.2f}", f"{length:g}")


def make_frame(evaluation: Evaluation, row: DialScores) -> Frame:
    """Return what the page says beside the picture of one dial."""
    why = reason(row)
    measured = evaluation.price != "forward_consistency"
    step = evaluation.step_optical_depth
    below, weight = dial_position(row.dial, step, math.ceil(row.dial / step - 1e-9))
    return Frame(
        dial=dial_word(row.dial),
        gain=format_score(row, CONTRAST_GAIN),
        detail=number(getattr(row, evaluation.price) if measured else None),
        consistency=number(row.forward_consistency),
        verdict=row.verdict,
        why=f"{why[0].upper()}{why[1:]}.",
        chosen=row is evaluation.chosen,
        below=below,
        weight=f"{weight:.4f}",
    )


def make_frames(evaluation: Evaluation) -> list[tuple[Frame, str]]:
    """Return words and picture, as a data URI, of each dial; empty without previews.

    Parameters
    ----------
    evaluation : Evaluation
    """
    if not evaluation.previews:
        return []
    rows = zip(evaluation.scores, evaluation.previews, strict=True)
    return [(make_frame(evaluation, row), data_uri(picture)) for row, picture in rows]


class StackPlane(NamedTuple):
    """A plane of the stack, as its slider goes through them."""

    label: str
    judged: bool
    pictures: tuple[str, ...]
    """Raw and iterations as data URIs; empty for the judged plane, which has one of every dial."""


def list_planes(evaluation: Evaluation) -> list[StackPlane]:
    """Return the planes of a stack that the page shows, rising; empty where it shows one alone.

    Parameters
    ----------
    evaluation : Evaluation
    """
    if not evaluation.stack or not evaluation.previews:
        return []
    axis = evaluation.stack_axis
    assert axis is not None
    judged = evaluation.plane[axis]
    found = {
        plane.number: StackPlane(
            f"{axis} = {plane.number}",
            False,
            tuple(data_uri(one, light=True) for one in plane.pictures),
        )
        for plane in evaluation.stack
    }
    found[judged] = StackPlane(f"{axis} = {judged}", True, ())
    return [found[number] for number in sorted(found)]


def describe_residual(evaluation: Evaluation) -> str:
    """Return what the residual map shows, and how much of it stands out."""
    words = (
        f"What dial {dial_word(evaluation.chosen_dial)} does not explain: the recording minus the "
        "enhanced image after the model tissue, smoothed over 2 px, in standard deviations of the "
        "noise left by that. White: light is missing. Black: there is too much. Even grey is "
        "good; outlines and patches are not."
    )
    share = evaluation.chosen.flagged_share
    if share is None:
        return words
    return f"{words} {number(100 * share, 1)} % of the pixels lie beyond {MINUS}4 or 4."
