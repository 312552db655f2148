"""Contrast for deep-tissue microscopy without ground truth (DeepContrast, arXiv 2308.08365).

The command line is ``dcbmz``. From Python, import the room you need::

    from deepcontrast_bmz.image import read_image, write_image
    from deepcontrast_bmz.model import open_model
    from deepcontrast_bmz.predict import enhance

Nothing is imported here, so that ``import deepcontrast_bmz`` is instant.
"""

from importlib.metadata import version

__all__ = ["__version__"]
__version__ = version("deepcontrast_bmz")
