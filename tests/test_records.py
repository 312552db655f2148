"""Settings and records that version 0.1 wrote, read today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import run_record
from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.records import LoopDescription, RunRecord
from deepcontrast_bmz.settings import LoopSettings, NetworkSettings, describe_invalid, read_recipe

if TYPE_CHECKING:
    from pathlib import Path

OFF: tuple[dict[str, Any], ...] = (
    {"reinjection": 0.0},
    {"reinjection": 0},
    {"local_dial": False},
    {"local_dial": None},
    {"reinjection": 0.0, "local_dial": False},
)


@pytest.mark.parametrize("keys", OFF)
def test_removed_keys_that_turned_nothing_on_are_dropped(keys: dict[str, Any]) -> None:
    assert LoopSettings.model_validate({"iterations": 3, **keys}) == LoopSettings(iterations=3)
    record = run_record()
    assert RunRecord.model_validate(record.model_dump() | keys) == record


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("reinjection = 0.5", "loop: reinjection turns on re-injection, which was removed"),
        ("local_dial = true", "loop: local_dial turns on the local dial, which was removed"),
    ],
)
def test_removed_keys_that_turned_something_on_are_refused(
    tmp_path: Path, keys: str, told: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"[loop]\niterations = 3\n{keys}\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert str(error.value).startswith(f"recipe {path}: {told} in version 0.2: ")
    assert str(error.value).endswith("use version 0.1 of deepcontrast_bmz, or train again")


def test_a_fitted_local_dial_is_refused() -> None:
    dial = {"hidden": 8, "recordings": 1, "error": 0, "gain_even_db": 0, "gain_uneven_db": 0}
    with pytest.raises(ValidationError, match="local_dial turns on the local dial"):
        RunRecord.model_validate(run_record().model_dump() | {"local_dial": dial})


@pytest.mark.parametrize("kind", ["blurpool_unet", "plain_unet"])
def test_removed_networks_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ValidationError) as error:
        NetworkSettings.model_validate({"kind": kind})
    assert describe_invalid(error.value, "it") == (
        "it: kind: this network was removed in version 0.2: use version 0.1 of "
        f"deepcontrast_bmz, or train again (met: '{kind}')"
    )


def test_keys_that_never_were_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        LoopSettings.model_validate({"iterations": 3, "reinject": 0.0})
    with pytest.raises(ValidationError, match="extra_forbidden"):
        LoopDescription.model_validate({"re_injection": 0.0})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes('[data]\r\nchannel = "µ-stain"\r\n'.encode(encoding))
    assert read_recipe(path).data.channel == "µ-stain"
