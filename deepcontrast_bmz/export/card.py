"""The model card: the documentation of a package, in Markdown, from a template."""

from __future__ import annotations

__all__ = ["read_card", "write_card"]

import re
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.facts import compute_smallest_block, describe_photons, title
from deepcontrast_bmz.export.parity import PARITY_LIMIT
from deepcontrast_bmz.export.template import join_sizes, render_template

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.export.facts import ModelFacts

_BEGIN = "<!-- written by dcbmz export -->"
_END = "<!-- end of what dcbmz export wrote -->"
_GENERATED = re.compile(rf"\n*{_BEGIN}\n.*?{_END}\n*", re.DOTALL)

_OF_TILES = 512
"""Side of the blocks that the card advises, in pixels."""


def read_card(card: Path | None) -> str | None:
    """Return the text of a given card, before any work is done for it."""
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the model card {card} cannot be read as text ({error}): give another Markdown file, "
            "or leave out --card"
        ) from error


def write_card(card: str | None, facts: ModelFacts) -> str:
    """Return the card, with scores and instructions where it does not have them itself.

    What an earlier export wrote stands between two comments and is replaced. Without a card a whole
    one is made up from the facts.
    """
    values = _values(facts)
    text = _render("introduction", values) if card is None else _GENERATED.sub("\n", card)
    sections = [
        _render(section, values)
        for section, heading in (("validation", "validation"), ("use", "how to use it"))
        if not re.search(rf"^#+ .*{heading}", text, re.MULTILINE | re.IGNORECASE)
    ]
    if not sections:
        return text
    return f"{text.rstrip()}\n\n{_BEGIN}\n{chr(10).join(sections)}{_END}\n"


def _render(section: str, values: dict[str, Any]) -> str:
    """Return one section, without empty lines around it and in lists."""
    text = render_template("card.md.jinja", section=section, **values)
    return re.sub(r"\n{3,}", "\n\n", text.strip("\n")) + "\n"


def _values(facts: ModelFacts) -> dict[str, Any]:
    """Return what the template is filled with."""
    recipe, run, loop, exported = facts.recipe, facts.run, facts.loop, facts.exported
    stacks, patch = loop.dims == 3, recipe.data.patch
    against = "the raw ones" if recipe.data.input_share is None else "the other light"
    names = {
        "loss": "mean absolute difference, in deviations of the target",
        "psnr_degraded": f"PSNR of the degraded patches against {against}, dB",
        "psnr_restored": f"PSNR of the restored patches against {against}, dB",
    }
    shapes = sorted({row.shape for row in exported.parity})
    least = compute_smallest_block(loop.halo, facts.multiple)
    return {
        "title": title(facts.name),
        "recipe": recipe,
        "run": run,
        "loop": loop,
        "exported": exported,
        "physics": recipe.physics,
        "scatter": recipe.physics.scatter,
        "step": loop.step_optical_depth,
        "stacks": stacks,
        "photons": describe_photons(recipe.physics),
        "patch": join_sizes((recipe.data.patch_planes, patch, patch) if stacks else (patch, patch)),
        "scores": [(names.get(key, key), value) for key, value in run.validation.items()],
        "parity_sizes": ", ".join(join_sizes((batch, *sides)) for batch, _, *sides in shapes),
        "parity_limit": PARITY_LIMIT,
        "own_sample": facts.sample,
        "least": least,
        "blocks": max(_OF_TILES - least[-1], 0),
    }
