from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import baselines
import numpy as np
import pytest
import torch
from descriptions import described
from function_models import TISSUE, Double, image_of, model_of

from deepcontrast_bmz.dial.automatic import decide_dial
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate import metrics, planes, previews, sweep
from deepcontrast_bmz.evaluate.records import DialScores, Evaluation
from deepcontrast_bmz.evaluate.sweep import evaluate
from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.predict.reliability import map_reliability
from deepcontrast_bmz.settings import NetworkSettings, Scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import Decision


def undo(image: Double, iteration: int) -> Double:
    """The exact inverse of the tissue, but for a little regularisation."""
    return baselines.wiener(image, float(iteration), *TISSUE, 1e-3)


@pytest.fixture(scope="module")
def inverse() -> Model:
    return model_of(undo)


@pytest.fixture(scope="module")
def truth() -> Double:
    return 800 * phantom("membranes", (112, 128), np.random.default_rng(2)).astype(np.float64) + 10


@pytest.fixture(scope="module")
def raw(truth: Double) -> Double:
    """Recorded at optical depth 2, offset 100."""
    hazy = scatter(torch.from_numpy(truth), 2.0, *TISSUE).numpy()
    return np.random.default_rng(3).poisson(hazy).astype(np.float64) + 100


@pytest.fixture(scope="module")
def found(inverse: Model, raw: Double, truth: Double) -> Evaluation:
    return evaluate(
        inverse, image_of(raw), reference=image_of(truth), offset=100, reference_offset=0
    )


def at(evaluation: Evaluation, dial: float) -> DialScores:
    return next(row for row in evaluation.scores if row.dial == dial)


def test_every_gain_comes_with_its_price(found: Evaluation) -> None:
    for row in found.scores:
        for field in DialScores.model_fields:
            assert getattr(row, field) is not None or field.startswith(("detail_", "transfer_"))


def test_the_raw_image_is_the_unit_of_everything(found: Evaluation) -> None:
    row = at(found, 0)
    assert row.contrast_gain == pytest.approx(1)
    assert row.contrast_gain_with_noise == 1
    assert row.michelson_gain == pytest.approx(1)
    assert row.transfer_coarse == pytest.approx(1)
    assert row.forward_consistency == pytest.approx(0, abs=1e-6)
    assert row.systematic_misfit == pytest.approx(0, abs=1e-3)
    assert row.verdict == "ok"


def test_contrast_rises_with_the_dial_and_is_recovered_at_the_true_depth(
    found: Evaluation,
) -> None:
    gains = [row.contrast_gain or 0 for row in found.scores]
    assert all(after > before for before, after in pairwise(gains))
    assert at(found, 2).contrast_recovery == pytest.approx(1, abs=0.1)
    assert (at(found, 0).contrast_recovery or 0) < 0.7


def test_beyond_the_true_depth_contrast_is_over_enhanced(found: Evaluation) -> None:
    assert at(found, 3).verdict == "over-enhanced"
    assert (at(found, 3).psnr_after_fit or 0) < (at(found, 2).psnr_after_fit or 0)
    assert (at(found, 2).reference_middle or 0) > (at(found, 0).reference_middle or 1)


def test_grid_covers_all_iterations_and_holds_the_automatic_dial(found: Evaluation) -> None:
    dials = [row.dial for row in found.scores]
    assert set(dials) == {0.25 * k for k in range(13)} | {found.chosen_dial}
    assert dials == sorted(dials)
    assert found.chosen.dial == found.chosen_dial
    assert found.chosen_reason
    assert 0 <= found.chosen_confidence <= 1


def test_the_raw_image_and_the_automatic_dial_are_in_every_sweep(
    inverse: Model, raw: Double, found: Evaluation
) -> None:
    result = evaluate(inverse, image_of(raw), offset=100, dials=[0.1 * 3, 0.3])
    assert [row.dial for row in result.scores] == sorted({0, 0.3, found.chosen_dial})


def test_halves_do_not_pay_for_noise_in_contrast(found: Evaluation) -> None:
    row = at(found, 3)
    assert row.contrast_gain_with_noise is not None
    assert row.contrast_gain is not None
    assert row.contrast_gain_with_noise > 1.05 * row.contrast_gain


def test_scores_know_neither_gain_nor_offset_of_the_camera(
    inverse: Model, raw: Double, found: Evaluation
) -> None:
    other = evaluate(inverse, image_of(4 * (raw - 100) + 1000), offset=1000, dials=[0, 1, 2])
    for row in other.scores[:3]:
        same = at(found, row.dial)
        assert row.contrast_gain == pytest.approx(same.contrast_gain, rel=1e-3)
        for name in ("forward_consistency", "systematic_misfit"):
            assert getattr(row, name) == pytest.approx(getattr(same, name), rel=1e-2, abs=1e-3)
        assert row.detail_coarse == pytest.approx(same.detail_coarse, abs=5e-3)


def test_without_a_reference_nothing_pretends_to_have_one(inverse: Model, raw: Double) -> None:
    result = evaluate(inverse, image_of(raw), dials=[1.0])
    assert result.reference is None
    assert result.reference_preview is None
    for row in result.scores:
        assert row.contrast_recovery is None
        assert row.psnr is None
        assert row.forward_consistency is not None
    assert result.price in ("detail_fine", "detail_coarse")
    assert result.offset < 140
    assert result.offset_estimated


TRICKS: dict[str, Callable[[Double, int], Double]] = {
    "gamma": lambda y, k: np.clip(y - 100, 0, None) ** (1 + k) / 100**k + 100,
    "offset subtraction": lambda y, k: y - 20 * k,
    "background subtraction": lambda y, k: baselines.subtract_background_gaussian(y, 20, 0.2 * k),
    "unsharp masking": lambda y, k: baselines.unsharp_mask(y, 15, 1.5 * k),
    "stretching": lambda y, k: y + k * (y - y.mean()),
}


@pytest.mark.parametrize("trick", sorted(TRICKS))
def test_cheap_contrast_is_called_inconsistent(trick: str, raw: Double) -> None:
    result = evaluate(model_of(TRICKS[trick]), image_of(raw), dials=[0, 1, 2, 3], offset=100)
    for row in result.scores:
        if row.dial >= 1:
            assert (row.contrast_gain or 0) > 1.05
            assert row.verdict == "inconsistent"
            assert (row.systematic_misfit or 0) > 0.1
    assert result.scores[0].verdict == "ok"


def test_a_given_offset_holds_the_dial_back_too(inverse: Model, raw: Double) -> None:
    """What the verdict is told, the automatic dial is told."""
    told: list[float | None] = []
    real = decide_dial

    def remembered(*given: object, **options: Any) -> Decision:
        told.append(options["offset"])
        return real(*given, **options)  # pyright: ignore[reportArgumentType]

    with patch("deepcontrast_bmz.dial.per_plane.decide_dial", remembered):
        found = evaluate(inverse, image_of(raw), dials=[1], offset=93)
    assert told == [93]
    assert found.misfit_limit is not None
    assert found.misfit_limit > 0.2


def test_an_image_without_noise_and_without_reference_is_unmeasurable(
    inverse: Model, truth: Double
) -> None:
    smooth = scatter(torch.from_numpy(truth), 3.0, (2.0,), (1.0,)).numpy()
    very_smooth = scatter(torch.from_numpy(smooth), 40.0, (2.0,), (1.0,)).numpy()
    result = evaluate(inverse, image_of(very_smooth), dials=[0, 0.5])
    assert {row.verdict for row in result.scores} == {"unmeasurable"}
    assert all(row.forward_consistency is None for row in result.scores)
    assert result.misfit_limit is None


def test_a_stack_is_judged_on_the_plane_with_the_most_content(
    inverse: Model, raw: Double, truth: Double
) -> None:
    noise = np.random.default_rng(0).normal(100, 30, raw.shape)
    stack = image_of(np.stack([noise, raw, noise]), "z", "y", "x")
    reference = image_of(np.stack([noise, truth, noise]), "z", "y", "x", name="shallow")
    chosen = evaluate(inverse, stack, reference=reference, dials=[2], offset=100)
    assert chosen.plane == {"z": 1}
    assert "most content of 3" in chosen.plane_reason
    alone = evaluate(inverse, image_of(raw), reference=image_of(truth), dials=[2], offset=100)
    assert chosen.scores == alone.scores
    assert chosen.reference == "shallow"
    named = evaluate(inverse, stack, plane=2, dials=[0])
    assert (named.plane, named.plane_reason) == ({"z": 2}, "chosen by the user")


@pytest.mark.parametrize("what", [np.nan, 0.0])
def test_holes_take_no_part(inverse: Model, raw: Double, truth: Double, what: float) -> None:
    holed, shallow = raw.copy(), truth.copy()
    holed[:, 96:] = what
    shallow[:, 96:] = np.nan
    judged = evaluate(inverse, image_of(holed), reference=image_of(shallow), dials=[1], offset=100)
    assert judged.window == (0, 0, 112, 96)
    alone = evaluate(
        inverse, image_of(raw[:, :96]), reference=image_of(truth[:, :96]), dials=[1], offset=100
    )
    for name in ("contrast_gain", "contrast_recovery", "detail_coarse", "psnr"):
        assert getattr(at(judged, 1), name) == getattr(at(alone, 1), name)


def test_a_single_plane_says_so(found: Evaluation) -> None:
    assert (found.plane, found.plane_reason) == ({}, "the only plane")
    assert found.window == (0, 0, 112, 128)
    assert found.plane_shape == (112, 128)
    assert not found.offset_estimated
    assert found.pixel_size_um == 0.5


def test_a_huge_plane_is_judged_on_a_window(
    inverse: Model, raw: Double, truth: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planes, "LARGEST_SIDE", 96)
    result = evaluate(inverse, image_of(raw), reference=image_of(truth), dials=[0], offset=100)
    top, left, height, width = result.window
    assert (height, width) == (96, 96)
    assert result.plane_shape == raw.shape
    window = (slice(top, top + height), slice(left, left + width))
    again = evaluate(
        inverse,
        image_of(raw[window]),
        reference=image_of(truth[window]),
        dials=[0],
        offset=100,
    )
    # The decision is on the whole plane, as for `predict`; the scores are those of the window.
    for one, other in zip(again.scores, result.scores, strict=True):
        assert one.psnr == other.psnr
        assert one.detail_fine == other.detail_fine
        assert one.contrast_recovery == other.contrast_recovery


def test_previews_share_one_black_and_white_and_stay_small(
    found: Evaluation, raw: Double, inverse: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(found.previews) == len(found.scores)
    assert found.residual_preview is not None
    assert found.reference_preview is not None
    for picture in (*found.previews, found.residual_preview, found.reference_preview):
        assert (picture.height, picture.width) == raw.shape
        assert len(picture.pixels) == picture.height * picture.width
    spread = [np.frombuffer(picture.pixels, np.uint8).std() for picture in found.previews]
    assert spread[0] < spread[-1]
    monkeypatch.setattr(previews, "PREVIEW_SIDE", 50)
    small = evaluate(inverse, image_of(raw), dials=[0])
    assert (small.previews[0].height, small.previews[0].width) == (37, 42)


def test_what_both_halves_agree_on_is_mapped_at_every_dial(
    found: Evaluation, raw: Double, inverse: Model
) -> None:
    maps = [np.frombuffer(one.pixels, np.uint8) / 255 for one in found.agreement]
    assert len(maps) == len(found.scores)
    # Nothing is added at dial 0, so nothing differs.
    assert maps[0].min() == 1
    for dial, shown in list(zip((row.dial for row in found.scores), maps, strict=True))[1:]:
        expected = map_reliability(inverse, image_of(raw), dial).values
        # The same light, split by other random numbers.
        assert shown.mean() == pytest.approx(float(expected.mean()), abs=0.05)


def test_the_record_survives_json_without_its_pictures(found: Evaluation) -> None:
    text = found.model_dump_json()
    assert "pixels" not in text
    back = Evaluation.model_validate_json(text)
    assert back.scores == found.scores
    assert back.previews == ()
    assert back.model_dump_json() == text


def test_the_same_seed_gives_the_same_scores(
    inverse: Model, raw: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (evaluate(inverse, image_of(raw), dials=[1]) for _ in range(2))
    assert first == second
    monkeypatch.setattr(sweep, "SPLIT_SEED", 1)
    assert evaluate(inverse, image_of(raw), dials=[1]).scores != first.scores


def test_progress_rises_to_one(inverse: Model, raw: Double) -> None:
    seen: list[float] = []
    evaluate(inverse, image_of(raw), dials=[0, 1], progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_the_references_offset_is_the_cameras_unless_it_cannot_be(
    inverse: Model, raw: Double, truth: Double
) -> None:
    def offset_of(reference: Double) -> float | None:
        result = evaluate(
            inverse, image_of(raw), reference=image_of(reference), offset=100, dials=[0]
        )
        return result.reference_offset

    assert offset_of(truth + 100) == 100
    other = offset_of(truth / 800)
    assert other is not None
    assert other <= float((truth / 800).min())


BAD: dict[str, tuple[Sequence[int] | Double, dict[str, object], str]] = {
    "two channels": ((2, 32, 32), {}, "specimen has 2 channels"),
    "tiny": ((8, 32), {}, "specimen has 8 x 32 pixels, too few.*at least 16 x 16"),
    "constant": (np.ones((32, 32)), {}, "plane 0 of specimen is constant, 1 everywhere"),
    "not finite": (np.full((32, 32), np.nan), {}, "finite"),
    "no such plane": ((32, 32), {"plane": 1}, "planes 0 to 0, not 1"),
    "no such dial": ((32, 32), {"dials": [3.5]}, "dial 3.5 is outside 0 to 3"),
    "negative dial": ((32, 32), {"dials": [-1]}, "dial -1 is outside 0 to 3"),
    "other size": (
        (32, 32),
        {"reference": image_of(np.ones((32, 31)))},
        "has y 32 x x 31, but.*32 x 32 pixels",
    ),
    "huge values": (np.linspace(0, 1e36, 1024).reshape(32, 32), {}, "pixels must lie between"),
    "other planes": (
        (32, 32),
        {"reference": image_of(np.ones((4, 32, 32)), "z", "y", "x")},
        "has z 4 x y 32 x x 32, but",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_refused_in_one_sentence(case: str, inverse: Model) -> None:
    content, options, message = BAD[case]
    values = (
        content
        if isinstance(content, np.ndarray)
        else np.random.default_rng(0).poisson(50, tuple(content)).astype(np.float64)
    )
    dims = ("c", "y", "x")[-values.ndim :]
    with pytest.raises(InputError, match=message) as error:
        evaluate(inverse, image_of(values, *dims), **options)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(error.value)


def test_a_stack_needs_a_reference_of_as_many_planes(inverse: Model) -> None:
    noise = np.random.default_rng(0).poisson(50, (3, 32, 32)).astype(np.float64)
    with pytest.raises(InputError, match="as many planes"):
        evaluate(
            inverse,
            image_of(noise, "z", "y", "x"),
            reference=image_of(noise[:2], "z", "y", "x"),
        )


# -- models of stacks


@dataclass
class Neighbours:
    """Iteration k takes away a share of the planes k above and below."""

    device: str = "cpu"
    block: int = 24

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        shares = []
        for k in range(1, iterations + 1):
            around = (torch.roll(extended, k, dims=2) + torch.roll(extended, -k, dims=2)) / 2
            shares.append(extended + 0.2 * k * (extended - around))
        m = iterations
        return torch.cat(shares, 1)[:, :, m:-m, m:-m, m:-m]


def model_of_stacks() -> Model:
    description = described(
        network=NetworkSettings(kind="dilated_3d", mixing_layers=1),
        radius_px=1,
        dims=3,
        radius_planes=1,
        halo_px=1,
        halo_planes=1,
        scatter=Scatter(widths=TISSUE[0], weights=TISSUE[1]),
    )
    return Model(
        name="stacks",
        description=description,
        weights_format="pytorch_state_dict",
        device="cpu",
        max_iterations=None,
        radius=1,
        multiple=1,
        runner=Neighbours(),
    )


@pytest.mark.parametrize("plane", [0, 4, 7])
def test_a_model_of_stacks_sees_the_planes_around_the_judged_one(plane: int) -> None:
    model, side = model_of_stacks(), 40
    truth = [phantom("nuclei", (side, side), np.random.default_rng(z)) for z in range(8)]
    stack = np.random.default_rng(9).poisson(200 * np.stack(truth) + 50).astype(np.float64)
    image = image_of(stack, "z", "y", "x")
    found = evaluate(model, image, plane=plane, offset=0, dials=[1, 1.5])
    assert found.plane == {"z": plane}
    for dial in (1, 1.5):
        whole = np.asarray(enhance(model, image, dial=dial).image)[plane]
        expected = metrics.contrast_gain(whole, stack[plane])
        assert at(found, dial).contrast_gain_with_noise == pytest.approx(expected, rel=1e-5)
        # Without its neighbours, mirrored, the plane would not change at all.
        assert expected > 1.001
    assert at(found, 1).systematic_misfit is not None


def test_a_model_of_stacks_takes_no_single_plane(raw: Double) -> None:
    with pytest.raises(InputError, match="has no z axis"):
        evaluate(model_of_stacks(), image_of(raw))


def test_a_reference_without_an_offset_has_none() -> None:
    """Texture looks like noise, and noise at no light like an offset below zero."""
    rng = np.random.default_rng(0)
    light = np.abs(rng.standard_normal((96, 96))).astype(np.float32)
    light[:20] = 0
    assert sweep._reference_offset(light, 90.0, None) == 0.0  # pyright: ignore[reportPrivateUsage]
    # A difference image may be negative; nothing then says that zero is dark.
    assert sweep._reference_offset(light - 5, 90.0, None) <= 0  # pyright: ignore[reportPrivateUsage]
    assert sweep._reference_offset(light, 90.0, 0.25) == 0.25  # pyright: ignore[reportPrivateUsage]
