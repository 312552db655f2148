"""One dial for frames and images, one for each channel, a smooth curve along z."""

from __future__ import annotations

import numpy as np
import pytest

from deepcontrast_bmz.dial.automatic import DialChoice
from deepcontrast_bmz.dial.experiment import PlaneChoices, share_dials
from deepcontrast_bmz.dial.table import DialCurve, DialTable, parse_dial_table
from deepcontrast_bmz.errors import InputError


def choice_of(dial: float | None, confidence: float = 0.5) -> DialChoice:
    """Return a choice; one without a dial is of an empty plane."""
    empty = dial is None
    return DialChoice(
        dial=dial or 0.0,
        confidence=1.0 if empty else confidence,
        reason="nothing there" if empty else f"dial {dial:g}",
        empty=empty,
    )


def image_of(
    dims: str,
    dials: object,
    *,
    lines: tuple[tuple[int, ...], ...] | None = None,
    lengths: tuple[int, ...] | None = None,
    names: tuple[str, ...] | None = None,
    levels: tuple[float, ...] | None = None,
) -> PlaneChoices:
    array = np.array(dials, dtype=object)
    return PlaneChoices(
        dims=tuple(dims),
        lengths=lengths or array.shape,
        lines=lines or tuple(tuple(range(n)) for n in array.shape),
        choices=tuple(choice_of(dial) for dial in array.ravel()),
        levels=levels or (100.0,) * array.size,
        names=names,
    )


# ---- frames, channels, images


def test_frames_share_the_median_of_those_with_content() -> None:
    film = image_of("t", [1.2, None, 1.3, 1.25, 3.9, None])
    ((table, reason),) = share_dials([film])
    assert table == DialTable.even(1.27)
    assert reason == "dial 1.27, from 6 planes, 2 of them empty; the surest: dial 1.2"


def test_a_film_without_content_has_dial_zero() -> None:
    ((table, reason),) = share_dials([image_of("t", [None, None, None])])
    assert table == DialTable.even(0.0)
    assert reason.startswith("dial 0, from 3 planes, 3 of them empty")


def test_channels_have_dials_of_their_own() -> None:
    ((table, reason),) = share_dials([image_of("tc", [[1.0, 2.0], [1.2, 2.2], [1.1, 2.1]])])
    assert table.text == "c0=1.1,c1=2.1"
    assert reason.startswith("dial c0=1.1,c1=2.1, from 6 planes; the surest: ")
    assert table.spread(("t", "c"), (2, 2), "film") == (1.1, 2.1, 1.1, 2.1)


def test_images_share_by_the_name_of_the_channel() -> None:
    one = image_of("c", [1.0, 2.0], names=("DAPI", "GFP"))
    two = image_of("c", [2.2, 1.2], names=("GFP", "DAPI"))
    (first, why), (second, _) = share_dials([one, two])
    assert first.text == "c0=1.1,c1=2.1"
    assert second.text == "c0=2.1,c1=1.1"
    assert "from 4 planes of 2 images that share it" in why


def test_planes_and_stacks_share_nothing() -> None:
    (plane, why), (stack, _) = share_dials([image_of("", 0.5), image_of("z", [1.0, 1.0, 1.0])])
    assert (plane.text, stack.text) == ("0.5", "1")
    assert why == "dial 0.5"


def test_stacks_of_unlike_length_share_a_curve() -> None:
    long = image_of("z", [0.1 * z for z in range(21)])
    short = image_of("z", [0.1 * z for z in range(11)])
    (one, _), (two, _) = share_dials([long, short])
    assert one == two
    dials = one.spread(("z",), (21,), "long")
    assert dials == pytest.approx([0.1 * z for z in range(21)], abs=0.02)
    assert two.spread(("z",), (11,), "short") == dials[:11]


def test_along_z_empty_planes_and_outliers_do_not_pull() -> None:
    dials: list[float | None] = [0.1 * z for z in range(21)]
    dials[3], dials[9], dials[20] = None, 3.9, None
    ((table, reason),) = share_dials([image_of("z", dials)])
    assert "smooth along z" in reason
    found = table.spread(("z",), (21,), "stack")
    assert found[:20] == pytest.approx([0.1 * z for z in range(20)], abs=0.06)


def test_between_the_planes_that_were_looked_at_the_curve_goes_straight() -> None:
    stack = image_of("z", [0.0, 1.0], lines=((0, 100),), lengths=(101,))
    ((table, _),) = share_dials([stack])
    assert table.spread(("z",), (101,), "stack")[25] == 0.25


@pytest.mark.parametrize("bleached", [True, False])
def test_only_a_film_that_bleaches_has_a_curve_along_time(bleached: bool) -> None:
    levels = tuple(100 * 0.8**t if bleached else 100.0 for t in range(9))
    film = image_of("t", [2 - 0.1 * t for t in range(9)], levels=levels)
    ((table, reason),) = share_dials([film])
    if bleached:
        dials = table.spread(("t",), (9,), "film")
        assert dials == pytest.approx([2 - 0.1 * t for t in range(9)], abs=0.03)
        assert "smooth along t" in reason
    else:
        assert table == DialTable.even(1.6)


# ---- as text


@pytest.mark.parametrize(
    "table",
    [
        DialTable.even(0.0),
        DialTable.even(1 / 3 // 1e-9 * 1e-9),
        DialTable((DialCurve(((0, 1.75),)), DialCurve(((0, 1.2),)))),
        DialTable((DialCurve(((0, 1.0), (20, 1.5)), "z"), DialCurve(((0, 0.5),)))),
        DialTable((DialCurve(((3, 1.0), (7, 0.0)), "t"),)),
    ],
    ids=lambda table: table.text,
)
def test_what_is_printed_can_be_given_back(table: DialTable) -> None:
    assert parse_dial_table(table.text) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "neither a number nor auto"),
        ("c0=1,c1=x", "neither a number nor auto"),
        ("c0=1,c2=2", "leaves out channel c1"),
        ("c1=2", "leaves out channel c0"),
        ("c0=1,2", "entry '2' that is not understood"),
        ("y3=1", "entry 'y3=1' that is not understood"),
        ("c0=1,c0=2", "beside another entry"),
        ("z0=1,t3=2", "beside another entry"),
        ("c0=1,z3=2", "in some entries only"),
        ("c0=-1", "at least 0"),
        ("nan", "the dial"),
    ],
)
def test_what_is_not_understood_is_said(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_dial_table(text)


def test_a_dial_for_other_channels_or_axes_is_refused() -> None:
    with pytest.raises(InputError, match=r"for 2 channels, but 'x\.tif' has 3"):
        parse_dial_table("c0=1,c1=2").spread(("c",), (3,), "x.tif")
    with pytest.raises(InputError, match=r"axis z, but 'x\.tif' has none"):
        parse_dial_table("z0=1,z9=2").spread(("t",), (3,), "x.tif")
