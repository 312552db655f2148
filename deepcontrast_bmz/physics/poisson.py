"""Shot noise in which every pixel has a random number of its own.

A sampler that rejects takes its numbers from one stream: the last bit of one expectation, which
depends on the processor's FFT, can shift the numbers of all pixels behind it. Here the count of a
pixel is the quantile of its Poisson distribution at its own number. An expectation that is off by
d changes a count with a probability of at most d / sqrt(2 e expectation), and no other pixel.
"""

from __future__ import annotations

__all__ = ["poisson_quantile", "uniform_numbers"]

from typing import TYPE_CHECKING

import numpy as np
import scipy  # its subpackages load when they are used

if TYPE_CHECKING:
    from numpy.typing import NDArray


_LARGE = 1e8
"""Expected photons from which the expansion is taken as it is: it is off by less than .001."""


def uniform_numbers(shape: tuple[int, ...], seed: int, stream: int) -> NDArray[np.float64]:
    """Return numbers between 0 and 1, both excluded; the same on every machine.

    Parameters
    ----------
    shape : tuple of int
    seed : int
        From 0 to 2**64 - 1.
    stream : int
        Different numbers for the same seed, 0, 1, 2 ...
    """
    # Raw bits of a counter-based generator: no float arithmetic, no rejection.
    bits = np.random.Philox(key=[seed, stream]).random_raw(int(np.prod(shape)))
    numbers = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.maximum(numbers, 2.0**-53).reshape(shape)


def poisson_quantile(
    numbers: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the smallest count whose cumulative probability is not below a number.

    Parameters
    ----------
    numbers : ndarray
        Between 0 and 1, both excluded.
    expected : ndarray, same shape
        Mean of each distribution; values below 0 count as 0.

    Returns
    -------
    ndarray of float64, same shape
        Whole numbers.
    """
    mean = np.maximum(expected, 0.0).ravel()
    wanted = numbers.ravel()
    # Two terms of the Cornish-Fisher expansion; off by one or two, and by more at few photons.
    normal = scipy.special.ndtri(wanted)
    first = mean + np.sqrt(mean) * normal + (normal**2 - 1) / 6
    count = np.maximum(np.rint(first), 0.0)
    count[mean == 0] = 0.0
    moving = np.flatnonzero((mean > 0) & (mean < _LARGE))
    while moving.size:
        k, m, u = count[moving], mean[moving], wanted[moving]
        above = scipy.special.pdtr(k, m) < u
        # pdtr of -1 is no probability.
        below = ~above & (k > 0) & (scipy.special.pdtr(np.maximum(k - 1, 0), m) >= u)
        count[moving] = k + above - below
        moving = moving[above | below]
    return count.reshape(expected.shape)
