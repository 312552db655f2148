"""The exported loop in one file: torch is all it needs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sort_pairs(x: Tensor) -> Tensor:
    """Sort channel i of the first half with channel i of the second half, pixel by pixel.

    Parameters
    ----------
    x : Tensor, (B, 2 N, Y, X)

    Returns
    -------
    Tensor, same shape as x
        The larger of each pair in the first half, the smaller in the second.
    """
    first, second = x.chunk(2, dim=1)
    return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)


class AffineConv(nn.Module):
    """Convolution without bias whose weights sum to a fixed number per output channel.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    size : int
        Side of the kernel, odd.
    dilation : int
        Distance between kernel elements in pixels.
    total : float
        What the weights of each output channel sum to: one keeps grey levels, zero makes a
        correction that ignores them.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, dilation: int = 1, total: float = 1.0
    ) -> None:
        super().__init__()
        bound = (3.0 / (inputs * size * size)) ** 0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size).uniform_(-bound, bound))
        self.dilation = dilation
        self.total = total
        self.margin = dilation * (size // 2)

    def kernel(self) -> Tensor:
        """Return the weights, shifted to their sum: (outputs, inputs, size, size)."""
        count = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self.weight - mean + self.total / count

    def forward(self, x: Tensor) -> Tensor:
        """Convolve without padding: each side loses `margin` pixels."""
        return F.conv2d(x, self.kernel(), dilation=self.dilation)

    def same(self, x: Tensor) -> Tensor:
        """Convolve with the edge replicated, so that the size stays."""
        m = self.margin
        return self(F.pad(x, (m, m, m, m), mode="replicate"))


class DilatedNetwork(nn.Module):
    r"""Sum of sorted dilated convolutions, equivariant to shift and to normalisation.

    .. math:: g_0 = C_0 x, \quad g_k = g_{k-1} + S(C_k g_{k-1}), \quad f(x) = x + 2^{-n} O g_n

    with S the pairwise sort, the kernels C summing to one and O to zero. Every g_k is 2^k times
    a quantity with the grey level of x, hence the power of two, which rounds nothing.

    Parameters
    ----------
    width : int
        Channels of every hidden layer; even.
    dilations : tuple of int
        Dilation of each 3 x 3 convolution after the first.

    Attributes
    ----------
    radius : int
        Pixels on each side that the output loses against the input.
    multiple : int
        Shifts by multiples of this are commuted with: here 1, every shift.
    """

    def __init__(
        self, width: int = 16, dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1)
    ) -> None:
        super().__init__()
        self.first = AffineConv(1, width)
        self.hidden = nn.ModuleList(AffineConv(width, width, dilation=d) for d in dilations)
        self.last = AffineConv(width, 1, size=1, total=0.0)
        self.dilations = tuple(dilations)
        self.radius = 1 + sum(dilations)
        self.multiple = 1
        self.scale = 0.5 ** len(dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X)
            Grey values in any unit, Y and X above 2 `radius`.

        Returns
        -------
        Tensor, (B, 1, Y - 2 radius, X - 2 radius)
            Same unit as x.
        """
        r = self.radius
        g = self.first(x)
        for layer, m in zip(self.hidden, self.dilations, strict=True):
            # In place saves memory, and keeps old TorchScript runtimes from compiling the sort and
            # the sum into one kernel, anew and for seconds, at every image size.
            g = sort_pairs(layer(g)).add_(g[:, :, m:-m, m:-m])
        return x[:, :, r:-r, r:-r].clone().add_(self.last(g), alpha=self.scale)


SEEN = 3


OCTAVES = 4


SPARSE = 2


WINDOW = (1, 5, 10)


BANDS_RADIUS = 2 * (2**OCTAVES - 1)


WINDOW_RADIUS = 2 * sum(WINDOW)


BALANCE_RADIUS = BANDS_RADIUS + WINDOW_RADIUS + 2


_POWERS = SEEN * OCTAVES


_MAGNITUDES = SEEN * SPARSE


_GAINS = (SEEN - 1) * OCTAVES


FEATURES = _POWERS + _MAGNITUDES + _GAINS + SEEN + SEEN + (SEEN - 1)


_POOLED = _POWERS + _MAGNITUDES + _GAINS + SEEN + SEEN


_FLAT = 1e-4


_NOTHING = 1e-30


_MOST = 20.0


class LocalBalance(nn.Module):
    """Reads an optical depth off the surroundings of each pixel and balances the image by it.

    Parameters
    ----------
    iterations : int
        Iterations that are blended; at least two.
    step : float
        Optical depth of one iteration.
    hidden : int
        Channels of its two hidden layers.
    """

    def __init__(self, iterations: int, step: float, hidden: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.step = step
        self.hidden = hidden
        self.radius = BALANCE_RADIUS
        binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.taps: Tensor
        self.register_buffer("taps", binomial.repeat(SEEN, 1, 1, 1), persistent=False)
        self.even: Tensor
        self.register_buffer("even", torch.full((_POOLED, 1, 1, 5), 0.2), persistent=False)
        self.first = nn.Conv2d(FEATURES, hidden, 1)
        self.second = nn.Conv2d(hidden, hidden, 1)
        self.last = nn.Conv2d(hidden, 1, 1)

    def features(self, images: Tensor) -> Tensor:
        """Describe the surroundings of each pixel.

        Parameters
        ----------
        images : Tensor, (B, SEEN, Y + 2 m, X + 2 m)
            The raw image and its first iterations, m = `BALANCE_RADIUS` - 2.

        Returns
        -------
        Tensor, (B, FEATURES, Y, X)
            Dimensionless. Per octave the logarithms of the power of each image; mean magnitudes
            over the root of the power; per octave the regression of each iteration's band on the
            one before; third moments; how far the darkest part lies below the mean, and how that
            changed.
        """
        level = images
        margin = BANDS_RADIUS
        bands: list[Tensor] = []
        dark = images
        for octave in range(OCTAVES):
            m = 2 * 2**octave
            smooth = _smooth(level, self.taps, 2**octave)
            margin = margin - m
            bands.append(_inner(_inner(level, m).clone().sub_(smooth), margin))
            level = smooth
            if octave == 1:
                dark = _inner(level, margin)
        later = torch.cat([band[:, 1:] for band in bands], 1)
        earlier = torch.cat([band[:, :-1] for band in bands], 1)
        # Structure, without the noise of the finest band.
        coarse = bands[1].clone().add_(bands[2]).add_(bands[3])
        cubes = coarse.clone().mul_(coarse).mul_(coarse)
        sizes = torch.cat(bands[:SPARSE], 1).abs_()
        found = torch.cat(bands, 1)
        found = torch.cat((found.mul_(found), sizes, later.mul_(earlier), cubes, dark), 1)
        for dilation in WINDOW:
            found = _smooth(found, self.even, dilation)
        parts = (_POWERS, _MAGNITUDES, _GAINS, SEEN, SEEN)
        power, sizes, cross, cubes, mean = found.split(parts, 1)
        # Power of the raw image over all octaves: the unit of all that follows.
        unit = power[:, ::SEEN].sum(1, keepdim=True).clamp_min_(_NOTHING)
        root = unit.clone().sqrt_()
        power = power.clone().div_(unit).clamp_min_(_FLAT)
        before = torch.cat([power[:, SEEN * i : SEEN * i + SEEN - 1] for i in range(OCTAVES)], 1)
        gains = cross.clone().div_(unit).div_(before)
        deviations = power[:, : SEEN * SPARSE].clone().sqrt_()
        sizes = sizes.clone().div_(root).div_(deviations)
        cubes = cubes.clone().div_(unit).div_(root)
        lowest = _darkest(dark)
        depth = mean.clone().sub_(lowest).div_(root)
        sunk = lowest[:, 1:].clone().sub_(lowest[:, :1]).div_(root)
        return torch.cat((power.log_(), sizes, gains, cubes, depth, sunk), 1).clamp_(-_MOST, _MOST)

    def read(self, features: Tensor) -> Tensor:
        """Return the optical depth in steps: (B, FEATURES, Y, X) to (B, 1, Y, X)."""
        h = self.first(features).clamp_min_(0.0)
        h = self.second(h).clamp_min_(0.0)
        return self.last(h).clamp_(0.0, float(self.iterations))

    def dial(self, images: Tensor) -> Tensor:
        """Return the optical depth of every pixel, in steps, lightly smoothed.

        Parameters
        ----------
        images : Tensor, (B, SEEN, Y + 2 m, X + 2 m)
            The raw image and its first iterations, m = `BALANCE_RADIUS`.

        Returns
        -------
        Tensor, (B, 1, Y, X)
        """
        images = images.contiguous(memory_format=torch.channels_last)
        return _smooth(self.read(self.features(images)), self.taps[:1], 1)

    def blend(self, images: Tensor, dial: Tensor) -> Tensor:
        """Return the image with every pixel at its own dial.

        Parameters
        ----------
        images : Tensor, (B, iterations + 1, Y, X)
            The raw image and all iterations.
        dial : Tensor, (B, 1, Y, X)
            In steps.

        Returns
        -------
        Tensor, (B, 1, Y, X)
        """
        result = images[:, :1].clone()
        for k in range(self.iterations):
            alpha = dial.clone().sub_(float(k)).clamp_(0.0, 1.0)
            # No format but torch has expm1.
            alpha = (alpha * self.step).exp_().sub_(1.0).div_(math.expm1(self.step))
            change = images[:, k + 1 : k + 2].clone().sub_(images[:, k : k + 1])
            result.add_(change.mul_(alpha))
        return result


def _inner(x: Tensor, margin: int) -> Tensor:
    """Remove pixels from all four sides."""
    return x[:, :, margin:-margin, margin:-margin] if margin else x


def _smooth(x: Tensor, taps: Tensor, dilation: int) -> Tensor:
    """Convolve every channel with five taps along y and x; each side loses 2 dilations."""
    channels = taps.shape[0]
    along_y = F.conv2d(x, taps.transpose(2, 3), dilation=(dilation, 1), groups=channels)
    return F.conv2d(along_y, taps, dilation=(1, dilation), groups=channels)


def _darkest(x: Tensor) -> Tensor:
    """Return the smallest value within 24 pixels along y and x; each side loses `WINDOW_RADIUS`."""
    x = _inner(x, WINDOW_RADIUS - 24).neg()
    # Seven pixels, then seven that are seven apart: 49 in all.
    for dilation in (1, 7):
        x = F.max_pool2d(x, (7, 1), stride=1, dilation=(dilation, 1))
        x = F.max_pool2d(x, (1, 7), stride=1, dilation=(1, dilation))
    return x.neg_()


def extend_symmetric(x: Tensor, margin: int) -> Tensor:
    """Mirror the image at its borders, the edge pixel repeated, by `margin` pixels on each side.

    Works at any size, also where the margin is larger than the image: it is then mirrored again.

    Parameters
    ----------
    x : Tensor, (B, C, Y, X)
    margin : int
        Pixels added on each side.

    Returns
    -------
    Tensor, (B, C, Y + 2 margin, X + 2 margin)
    """
    if margin == 0:
        return x
    height, width = x.shape[2], x.shape[3]
    rows = torch.arange(-margin, height + margin, device=x.device) % (2 * height)
    # In place, as in the network: old TorchScript runtimes would compile it anew at every size.
    rows = torch.minimum(rows, rows.neg().add_(2 * height - 1))
    columns = torch.arange(-margin, width + margin, device=x.device) % (2 * width)
    columns = torch.minimum(columns, columns.neg().add_(2 * width - 1))
    return x.index_select(2, rows).index_select(3, columns)


def extend_volume(x: Tensor, planes: int, margin: int) -> Tensor:
    """Mirror a stack at its borders, the outermost plane or pixel repeated, at any size.

    Parameters
    ----------
    x : Tensor, (B, 1, Z, Y, X)
    planes : int
        Planes added above and below.
    margin : int
        Pixels added on each lateral side.

    Returns
    -------
    Tensor, (B, 1, Z + 2 planes, Y + 2 margin, X + 2 margin)
    """
    depth = x.shape[2]
    order = torch.arange(-planes, depth + planes, device=x.device) % (2 * depth)
    order = torch.minimum(order, order.neg().add_(2 * depth - 1))
    return extend_symmetric(x[:, 0].index_select(1, order), margin).unsqueeze(1)


def crop(x: Tensor, margins: tuple[int, ...]) -> Tensor:
    """Remove pixels from both sides of the axes behind batch and channel.

    Parameters
    ----------
    x : Tensor, (B, C, ...)
    margins : tuple of int
        Pixels to remove from each side, one number per axis.
    """
    if not any(margins):
        return x
    return x[(slice(None), slice(None), *(slice(m, -m if m else None) for m in margins))]


def _in_planes(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each plane of (B, C, Y, X) or (B, C, Z, Y, X) with a kernel (O, C, y, x)."""
    return F.conv3d(x, kernel.unsqueeze(2)) if x.dim() == 5 else F.conv2d(x, kernel)


class Reinjection(nn.Module):
    """Feeds a share of what one step leaves unexplained back into the image.

    After f(x), the residual r = x - H f(x) holds what the network dropped; r, slightly smoothed,
    is added with weight `share`. H is a sum of separable terms, so that it exports to any format.
    In a stack every plane is fed back by itself, since H acts within the plane.

    Parameters
    ----------
    share : float
        Weight of the residual.
    terms : int
        Number of separable terms of H.
    reach : int
        Half width of the kernels, in pixels.
    """

    def __init__(self, share: float, terms: int, reach: int) -> None:
        super().__init__()
        self.share = share
        self.reach = reach
        self.radius = reach + 2
        self.kernels: Tensor
        self.amplitudes: Tensor
        self.register_buffer("kernels", torch.zeros(terms, 2 * reach + 1))
        self.register_buffer("amplitudes", torch.zeros(terms))
        taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2 / 0.7**2)
        smooth = torch.outer(taps, taps)
        self.smooth: Tensor
        self.register_buffer("smooth", (smooth / smooth.sum())[None, None], persistent=False)

    def set_kernels(self, amplitudes: Tensor, kernels: Tensor) -> None:
        """Set the terms of H: `amplitudes` (terms,), `kernels` (terms, 2 reach + 1), rows sum 1."""
        self.amplitudes.copy_(amplitudes)
        self.kernels.copy_(kernels)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return `after` with the residual fed back; each side loses `radius` pixels.

        Parameters
        ----------
        before, after : Tensor, (B, 1, Y, X) or (B, 1, Z, Y, X)
            Image before and after one pass of the network, over the same pixels.
        """
        r = self.reach
        terms = self.kernels.shape[0]
        lateral = (0,) * (before.dim() - 4)
        along_y = _in_planes(after, self.kernels[:, None, :, None])
        weighted = self.kernels.clone().mul_(self.amplitudes[:, None])[None, :, None, :]
        scattered = _in_planes(along_y, weighted.reshape(1, terms, 1, 2 * r + 1))
        residual = _in_planes(crop(before, (*lateral, r, r)) - scattered, self.smooth)
        m = self.radius
        return crop(after, (*lateral, m, m)).clone().add_(residual, alpha=self.share)


class Loop(nn.Module):
    """Applies one network again and again and keeps every iteration.

    Parameters
    ----------
    network : Module
        Takes (B, 1, Y, X) to (B, 1, Y - 2 r, X - 2 r) with attributes ``radius`` (r) and
        ``multiple``; one for stacks takes (B, 1, Z, Y, X), has ``dims`` 3 and says in ``radii``
        what it loses along z, y and x.
    iterations : int
        How many iterations `forward` returns.
    reinjection : Reinjection or None
        Feeds the one-step residual back after every iteration; None is the plain loop.
    balance : LocalBalance or None
        Adds one more channel behind the iterations, every pixel at its own dial. Only for planes,
        and only where the surroundings of all iterations hold its window, too.

    Attributes
    ----------
    dims : int
        Spatial axes: 2 for planes, 3 for stacks.
    radii : tuple of int
        Pixels lost on each side per iteration, along (z,) y, x.
    radius : int
        The lateral one of these.
    multiple : int
        The pooling grid, in pixels; 1 where there is none.
    """

    def __init__(
        self,
        network: nn.Module,
        iterations: int = 4,
        reinjection: Reinjection | None = None,
        balance: LocalBalance | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.iterations = iterations
        self.reinjection = reinjection
        self.balance = balance
        self.multiple = int(network.multiple)  # pyright: ignore[reportArgumentType]
        self.network_radius = int(network.radius)  # pyright: ignore[reportArgumentType]
        radius = self.network_radius + (reinjection.radius if reinjection is not None else 0)
        # Cropping must keep the phase of a pooling grid.
        self.radius = -(-radius // self.multiple) * self.multiple
        self.network_radii: tuple[int, ...] = tuple(
            getattr(network, "radii", (self.network_radius, self.network_radius))
        )
        self.dims = len(self.network_radii)
        self.radii = (*self.network_radii[:-2], self.radius, self.radius)
        if balance is not None and not balance_fits(self.dims, self.radius, iterations):
            raise ValueError(
                "the surroundings of all iterations do not hold the local dial's window"
            )

    def step(self, x: Tensor) -> Tensor:
        """Run one iteration; the image loses `radii` on each side."""
        after = self.network(x)
        lost = self.network_radius
        if self.reinjection is not None:
            after = self.reinjection(crop(x, self.network_radii), after)
            lost = lost + self.reinjection.radius
        spare = self.radius - lost
        return crop(after, (*((0,) * (self.dims - 2)), spare, spare))

    def margins(self, iterations: int) -> tuple[int, ...]:
        """Return what so many iterations lose on each side, along (z,) y, x."""
        return tuple(iterations * radius for radius in self.radii)

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Run the loop on an image that comes with its surroundings.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 iterations radius, X + 2 iterations radius)
            The image and all that the iterations see around it; for a stack
            (B, 1, Z, Y, X), each axis longer by twice its `margins`.
        iterations : int
            Number of iterations, at least 1.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X)
            Channel k is the image after k + 1 iterations.
        """
        x = extended
        kept: list[Tensor] = []
        for done in range(1, iterations + 1):
            x = self.step(x)
            kept.append(crop(x, self.margins(iterations - done)))
        return torch.cat(kept, dim=1)

    def channels(self, extended: Tensor) -> Tensor:
        """Run all iterations and balance them: what the exported graph returns.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 m, X + 2 m)
            As for `iterate`, m the margin of all iterations.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X), one channel more with a balance
            Channel k is the image after k + 1 iterations, the last one the balanced image.
        """
        balance = self.balance
        if balance is None:
            return self.iterate(extended, self.iterations)
        # As far as the window of the local dial reaches.
        margin = self.iterations * self.radius
        x = crop(extended, (margin - balance.radius,) * 2)
        seen: list[Tensor] = [x]
        kept: list[Tensor] = [crop(x, (balance.radius,) * 2)]
        x = extended
        for done in range(1, self.iterations + 1):
            x = self.step(x)
            margin = (self.iterations - done) * self.radius
            if done < SEEN:
                seen.append(crop(x, (margin - balance.radius,) * 2))
            kept.append(crop(x, (margin,) * 2))
        images = torch.cat(kept, dim=1)
        balanced = balance.blend(images, balance.dial(torch.cat(seen, dim=1)))
        return torch.cat((images[:, 1:], balanced), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the loop on a whole image: (B, 1, (Z,) Y, X) to the `channels` of that size."""
        margins = self.margins(self.iterations)
        if self.dims == 3:
            return self.channels(extend_volume(x, margins[0], margins[1]))
        return self.channels(extend_symmetric(x, margins[0]))


def balance_fits(dims: int, radius: int, iterations: int) -> bool:
    """Say whether the surroundings of a loop hold the window of a local dial.

    Parameters
    ----------
    dims : int
        Spatial axes.
    radius : int
        Pixels lost per iteration and side.
    iterations : int
    """
    return dims == 2 and (iterations - SEEN + 1) * radius >= BALANCE_RADIUS


class DeepContrastLoop(Loop):
    """The exported loop, built from plain values: (B, 1, Y, X) to (B, iterations, Y, X).

    With a local dial there is one channel more, the balanced image.

    Parameters
    ----------
    width : int
        Channels of the first layer.
    dilations : list[int]
        Dilation of each 3 x 3 convolution.
    iterations : int
        Output channels: channel k is the image after k + 1 iterations.
    reinjection : float
        Share of the one-step residual fed back after every iteration; 0 is the plain loop.
    terms, reach : int
        Size of the kernels of the residual, which are in the state dict.
    local_dial : int
        Hidden channels of the local dial; 0 is none.
    step : float
        Optical depth of one iteration, for the local dial.
    """

    def __init__(
        self,
        width: int,
        dilations: list[int],
        iterations: int,
        reinjection: float = 0.0,
        terms: int = 0,
        reach: int = 0,
        local_dial: int = 0,
        step: float = 1.0,
    ) -> None:
        feedback = Reinjection(reinjection, terms, reach) if reinjection > 0 else None
        balance = LocalBalance(iterations, step, local_dial) if local_dial > 0 else None
        network = DilatedNetwork(width, tuple(dilations))
        super().__init__(network, iterations, feedback, balance)
