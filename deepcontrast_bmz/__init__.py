"""Contrast for deep-tissue microscopy without ground truth (DeepContrast, arXiv 2308.08365).

The command line is ``dcbmz``. From Python::

    from deepcontrast_bmz import enhance, open_model, read_image, write_image

A name is imported when it is first used, so that ``import deepcontrast_bmz`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepcontrast_bmz.check.check import check_package
    from deepcontrast_bmz.evaluate.sweep import evaluate as evaluate_image
    from deepcontrast_bmz.export.package import export_run
    from deepcontrast_bmz.image import read_image, write_image
    from deepcontrast_bmz.model.open import open_model
    from deepcontrast_bmz.predict.enhance import enhance
    from deepcontrast_bmz.predict.files import predict_files
    from deepcontrast_bmz.predict.reliability import map_reliability
    from deepcontrast_bmz.settings import read_recipe
    from deepcontrast_bmz.train.run import train_longer, train_run

__all__ = [
    "__version__",
    "check_package",
    "enhance",
    "evaluate_image",
    "export_run",
    "map_reliability",
    "open_model",
    "predict_files",
    "read_image",
    "read_recipe",
    "train_longer",
    "train_run",
    "write_image",
]

__version__ = version("deepcontrast_bmz")

_PLACES = {
    "check_package": "check.check.check_package",
    "enhance": "predict.enhance.enhance",
    "evaluate_image": "evaluate.sweep.evaluate",
    "export_run": "export.package.export_run",
    "map_reliability": "predict.reliability.map_reliability",
    "open_model": "model.open.open_model",
    "predict_files": "predict.files.predict_files",
    "read_image": "image.read_image",
    "read_recipe": "settings.read_recipe",
    "train_longer": "train.run.train_longer",
    "train_run": "train.run.train_run",
    "write_image": "image.write_image",
}
"""Where the public names are defined. None is the name of a folder, which would hide it."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].rpartition(".")
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
