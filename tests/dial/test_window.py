"""The part of a plane with the most content."""

from __future__ import annotations

import pytest
import torch

from deepcontrast_bmz.dial.window import content_window


@pytest.mark.parametrize(("y", "x"), [(40, 500), (300, 60), (170, 300)])
def test_the_window_lies_where_the_content_is(y: int, x: int) -> None:
    raw = torch.zeros(400, 600)
    raw[y - 20 : y + 20, x - 20 : x + 20] = 100
    rows, columns = content_window(raw, 128)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (128, 128)
    assert rows.start <= y - 20
    assert y + 20 <= rows.stop
    assert columns.start <= x - 20
    assert x + 20 <= columns.stop


@pytest.mark.parametrize("shape", [(1, 1), (5, 900), (900, 5), (129, 128), (128, 128)])
def test_the_window_fits_into_the_image(shape: tuple[int, int]) -> None:
    rows, columns = content_window(torch.rand(shape), 128)
    for part, length in ((rows, shape[0]), (columns, shape[1])):
        assert 0 <= part.start < part.stop <= length
        assert part.stop - part.start == min(128, length)


def test_without_content_the_window_is_in_the_middle() -> None:
    rows, columns = content_window(torch.ones(640, 640), 128)
    assert abs(rows.start + 64 - 320) <= 32
    assert abs(columns.start + 64 - 320) <= 32
