"""Further planes of a stack: their pictures are those of the enhanced planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import raw_stack

from deepcontrast_bmz import enhance, evaluate_image, open_model
from deepcontrast_bmz.evaluate.previews import shrink
from deepcontrast_bmz.evaluate.stack import add_stack

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.evaluate.records import Evaluation
    from deepcontrast_bmz.model.model import Model


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def judged(model: Model) -> Evaluation:
    return evaluate_image(model, raw_stack(planes=4, size=48), plane=2)


def test_pictures_are_the_raw_plane_and_every_iteration(model: Model, judged: Evaluation) -> None:
    image = raw_stack(planes=4, size=48)
    shares: list[float] = []
    found = add_stack(judged, model, image, shares.append)
    assert found.stack_axis == "z"
    assert [plane.number for plane in found.stack] == [0, 1, 3]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])
    iterations = enhance(model, image, all_iterations=True).image.values
    middle = enhance(model, image, dial=max(judged.chosen_dial, 1.5)).image.values
    for plane in found.stack:
        z = plane.number
        black, white = np.quantile(middle[z], (0.003, 0.998))
        expected = [image.values[z], *iterations[:, z]]
        assert len(plane.pictures) == len(expected) == 4
        for picture, values in zip(plane.pictures, expected, strict=True):
            wanted = shrink(values.astype(np.float32), float(black), float(white))
            shown = np.frombuffer(picture.pixels, np.uint8).astype(int)
            # One grey level, where blocks round otherwise.
            assert np.abs(shown - np.frombuffer(wanted.pixels, np.uint8)).max() <= 1


def test_of_many_planes_some_are_shown_and_of_one_none(model: Model, judged: Evaluation) -> None:
    image = raw_stack(planes=4, size=48)
    many = image.isel(z=np.arange(20) % 4)
    stack = add_stack(judged.model_copy(update={"plane": {"z": 6}}), model, many).stack
    assert [plane.number for plane in stack] == [0, 3, 10, 13, 16, 19]
    film = add_stack(
        judged.model_copy(update={"plane": {"t": 0}}), model, image.rename(z="t").isel(t=[0, 1])
    )
    assert (film.stack_axis, [plane.number for plane in film.stack]) == ("t", [1])
    assert add_stack(judged, model, image.isel(z=2)) is judged
