"""How much values may differ: the one place for it, in check and port.

All are largest differences over the range of the channel.
"""

from __future__ import annotations

__all__ = [
    "BORDER_TOLERANCE",
    "FORMAT_TOLERANCE",
    "HALO_TOLERANCE",
    "SAME_TOLERANCE",
    "TEST_TOLERANCE",
    "TILE_TOLERANCE",
]

SAME_TOLERANCE = 1e-5
"""Between a network and what was traced of it."""
FORMAT_TOLERANCE = 1e-4
"""Between weights formats."""
HALO_TOLERANCE = 3e-4
"""By what lies beyond a halo that is measured and declared."""
TEST_TOLERANCE = 1e-3
"""Between the weights of a package that is ported and its test output."""
TILE_TOLERANCE = 1e-3
"""Between tiles and the whole image."""
BORDER_TOLERANCE = 1e-2
"""At the border of the image, from which it is worth a warning."""
