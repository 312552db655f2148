"""Values: whether weights formats agree at every size, and tiles with the whole image.

What the Java programs and ilastik do with borders and tiles is emulated here with the weights
they would load, run by the torch or onnxruntime of this environment.
"""

from __future__ import annotations

__all__ = ["Bench", "mirror_indices", "relative_difference", "tiled"]

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.consumers.core import is_foreign_code, load_tensor
from deepcontrast_bmz.consumers.processing import apply_operations
from deepcontrast_bmz.consumers.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deepcontrast_bmz.consumers.package_files import Package


Array = NDArray[Any]

FORMAT_TOLERANCE = 1e-4
"""Largest difference between weights formats, over the range of the channel."""
TILE_TOLERANCE = 1e-3
"""Largest difference between tiles and the whole image, over the range of the channel."""
BORDER_TOLERANCE = 1e-2
"""Difference at the border of the image from which it is worth a warning."""
TILE = 512
TILED_IMAGE = (600, 560)
"""Least size of the image that is cut into tiles: more than one tile of 512 each way, edge tiles
off the grid of the others."""
LEAST_MARGIN = 32
"""Pixels at the border where tiles and whole image may differ, since programs pad differently."""
MOST_TILES = 3
"""Tiles along an axis that are run: a large halo would make hundreds of small ones."""
LARGEST_IMAGE = 2**21


class NotPossibleError(ValueError):
    """A comparison cannot be made with this package; the message says why."""


def mirror_indices(
    start: int, stop: int, size: int, mode: Literal["symmetric", "reflect"]
) -> NDArray[np.intp]:
    """Return indices start to stop into an axis that goes on mirrored beyond its ends.

    ``symmetric`` repeats the edge pixel, ``reflect`` does not.
    """
    indices = np.arange(start, stop)
    if size == 1:
        return np.zeros_like(indices)
    period = 2 * size if mode == "symmetric" else 2 * size - 2
    folded = indices % period
    return np.where(folded < size, folded, period - folded - (mode == "symmetric"))


def relative_difference(
    first: Array, second: Array, channel: int | None, inside: Sequence[slice]
) -> tuple[float, float]:
    """Return the largest difference inside and outside of a region, over the range of `second`.

    Parameters
    ----------
    first, second : array
        Same shape.
    channel : int or None
        Position of the channel axis: every channel is measured over its own range.
    inside : sequence of slice
        The region, one slice per axis.

    Returns
    -------
    tuple of float
        Inside, and outside (0 if nothing is outside). Infinite if a value is not finite.
    """
    over = tuple(i for i in range(second.ndim) if i != channel)
    reference = second.astype(np.float64)
    if not (np.isfinite(reference).all() and np.isfinite(first).all()):
        return np.inf, np.inf
    scale = reference.max(axis=over, keepdims=True) - reference.min(axis=over, keepdims=True)
    largest = np.abs(reference).max(axis=over, keepdims=True)
    # A channel without range is measured over its value.
    scale = np.where(scale > 1e-12 * largest, scale, np.where(largest > 0, largest, 1.0))
    difference = np.abs(first.astype(np.float64) - reference) / scale
    region = difference[tuple(inside)]
    within = float(region.max()) if region.size else 0.0
    difference[tuple(inside)] = 0.0
    return within, float(difference.max())


def tiled(
    process: Callable[[Array], Array],
    image: Array,
    axes: tuple[int, int],
    *,
    tile: tuple[int, int],
    halo: int,
    mode: Literal["symmetric", "reflect"],
    rest: Array | None = None,
    most: int | None = None,
) -> Array:
    """Run a function tile by tile as QuPath and ilastik do.

    Tiles step by their size without halo; the last ones, which are smaller, are centred in a
    full tile, so that they lie off the grid of the others. Beyond the image it is mirrored.

    Parameters
    ----------
    process : callable
        Takes and returns an array whose sides along `axes` are those of `tile`.
    image : array
    axes : tuple of int
        Positions of y and x.
    tile : tuple of int
        Sides of the tile that is handed to `process`.
    halo : int
        Pixels cropped from each side of a tile.
    mode : str
        How the image goes on beyond its border.
    rest : array, optional
        What stands where no tile is run.
    most : int, optional
        Most tiles along an axis; the first, the last and those spread between are run.

    Returns
    -------
    array
        As large as the image along `axes`.
    """
    height, width = image.shape[axes[0]], image.shape[axes[1]]
    result = None if rest is None else rest.copy()

    def spans(size: int, side: int) -> list[tuple[int, int, int]]:
        inner = side - 2 * halo
        if inner <= 0:
            raise NotPossibleError(
                f"nothing is left of a tile of {side} pixels with a halo of {halo}"
            )
        parts: list[tuple[int, int, int]] = []
        for start in range(0, size, inner):
            stop = min(start + inner, size)
            parts.append((start, stop, start - (side - (stop - start)) // 2))
        if most is None or rest is None or len(parts) <= most:
            return parts
        chosen = np.linspace(0, len(parts) - 1, most).round().astype(int)
        return [parts[index] for index in chosen]

    for top, bottom, first_row in spans(height, tile[0]):
        rows = mirror_indices(first_row, first_row + tile[0], height, mode)
        for left, right, first_column in spans(width, tile[1]):
            columns = mirror_indices(first_column, first_column + tile[1], width, mode)
            block = image.take(rows, axis=axes[0]).take(columns, axis=axes[1])
            done = process(np.ascontiguousarray(block))
            if done.shape[axes[0]] != tile[0] or done.shape[axes[1]] != tile[1]:
                raise NotPossibleError(f"a tile of {tile} comes back as {done.shape}")
            if result is None:
                shape = list(done.shape)
                shape[axes[0]], shape[axes[1]] = height, width
                result = np.empty(shape, done.dtype)
            target: list[slice] = [slice(None)] * result.ndim
            source: list[slice] = [slice(None)] * result.ndim
            target[axes[0]], target[axes[1]] = slice(top, bottom), slice(left, right)
            source[axes[0]] = slice(top - first_row, bottom - first_row)
            source[axes[1]] = slice(left - first_column, right - first_column)
            result[tuple(target)] = done[tuple(source)]
    if result is None:
        raise NotPossibleError("the image is empty")
    return result


def _torchscript(path: str) -> Callable[[Array], Array]:
    import torch

    module = torch.jit.load(path, map_location="cpu").eval()

    def run(x: Array) -> Array:
        # Optimising takes seconds at every new size, and only few images of a size are run.
        with (
            torch.inference_mode(),
            torch.jit.optimized_execution(  # pyright: ignore[reportPrivateImportUsage]
                False
            ),
        ):
            out = module(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
        out = out[0] if isinstance(out, list | tuple) else out
        return cast("Array", out.numpy())

    return run


def _onnx(path: str) -> Callable[[Array], Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Array) -> Array:
        feed = {name: np.ascontiguousarray(x, dtype=np.float32)}
        return np.asarray(session.run(None, feed)[0])

    return run


def _state_dict(package: Package) -> Callable[[Array], Array]:
    import torch
    from bioimageio.core.backends.pytorch_backend import load_torch_model
    from bioimageio.spec import load_description

    description: Any = load_description(package.root / package.rdf_name, perform_io_checks=False)
    module = load_torch_model(description.weights.pytorch_state_dict, load_state=True).eval()

    def run(x: Array) -> Array:
        with torch.inference_mode():
            out = module(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
        out = out[0] if isinstance(out, list | tuple) else out
        return cast("Array", out.numpy())

    return run


@dataclass
class Bench:
    """Runs the weights of one package on images of many sizes; keeps what it loaded."""

    package: Package
    run_code: bool = False
    _graphs: dict[str, Callable[[Array], Array]] = field(
        default_factory=dict[str, "Callable[[Array], Array]"]
    )
    _whole: dict[tuple[str, int, int], Array] = field(
        default_factory=dict[tuple[str, int, int], "Array"]
    )

    def __post_init__(self) -> None:
        """Look at the tensors once.

        Raises
        ------
        NotPossibleError
            If there is not one input and one output with readable test tensors.
        """
        view = self.package.view
        if len(view.inputs) != 1 or len(view.outputs) != 1:
            raise NotPossibleError(f"{len(view.inputs)} inputs and {len(view.outputs)} outputs")
        self.input, self.output = view.inputs[0], view.outputs[0]
        test_input = load_tensor(self.package, self.input.test_source)
        test_output = load_tensor(self.package, self.output.test_source)
        if test_input is None or test_output is None:
            raise NotPossibleError("the test tensors cannot be read")
        if test_input.ndim != len(self.input.axes) or test_output.ndim != len(self.output.axes):
            raise NotPossibleError("the test tensors have other axes than declared")
        self.test_input, self.test_output = test_input, test_output
        self.in_names = [axis.name for axis in self.input.axes]
        self.out_names = [axis.name for axis in self.output.axes]

    @property
    def channel(self) -> int | None:
        """Position of the output's channel axis."""
        return next((i for i, a in enumerate(self.output.axes) if a.kind == "channel"), None)

    def plane_axes(self) -> tuple[int, int]:
        """Return the positions of y and x, the same in input and output, of a 2-D model."""
        order = (self.in_names, self.out_names)
        if any("y" not in names or "x" not in names for names in order):
            raise NotPossibleError("there are no axes y and x")
        positions = [(names.index("y"), names.index("x")) for names in order]
        if len(self.input.spatial) != 2 or positions[0] != positions[1]:
            raise NotPossibleError("only images with the axes batch, channel, y, x are emulated")
        return positions[0]

    def graph(self, weights_format: str) -> Callable[[Array], Array]:
        """Return the network of one weights format as a function of arrays."""
        if weights_format not in self._graphs:
            path = self.package.weights_file(weights_format)
            if path is None:
                raise NotPossibleError(f"there is no file with {weights_format} weights")
            foreign = is_foreign_code(self.package, weights_format)
            if foreign and not self.run_code:
                raise NotPossibleError(f"{weights_format} was not run: {foreign}")
            with quiet():
                if weights_format == "torchscript":
                    loaded = _torchscript(str(path))
                elif weights_format == "onnx":
                    loaded = _onnx(str(path))
                elif weights_format == "pytorch_state_dict":
                    loaded = _state_dict(self.package)
                else:
                    raise NotPossibleError(f"no engine for {weights_format}")
            self._graphs[weights_format] = loaded
        return self._graphs[weights_format]

    def process(self, weights_format: str) -> Callable[[Array], Array]:
        """Return preprocessing, network and postprocessing as one function."""
        graph = self.graph(weights_format)

        def run(x: Array) -> Array:
            prepared = apply_operations(self.input.operations, x, self.in_names)
            with quiet():
                out = graph(prepared)
            return apply_operations(self.output.operations, out, self.out_names)

        return run

    def image(self, sizes: Mapping[str, int], *, shift: int = 0) -> Array:
        """Return the raw test input, mirrored or cropped to these sizes by axis id.

        It begins `shift` thirds of the test input further on.
        """
        x = self.test_input
        for index, name in enumerate(self.in_names):
            if name in sizes:
                size = x.shape[index]
                start = shift * (size // 3 + 1)
                indices = mirror_indices(start, start + sizes[name], size, "symmetric")
                x = x.take(indices, axis=index)
        return np.ascontiguousarray(x)

    def scene(self, sizes: Mapping[str, int]) -> Array:
        """Return an image of these sizes that is nowhere its own mirror image.

        Where it was, a tile that ends there would go on as the image does, and hide its seam.
        """
        return (self.image(sizes) + self.image(sizes, shift=1)) / 2

    def sizes(self) -> list[dict[str, int]]:
        """Return the smallest legal size and some odd ones."""
        found: list[dict[str, int]] = []
        for extra in ((0, 0, 0), (3, 1, 16), (1, 37, 54), (2, 64, 5)):
            spatial = self.input.spatial
            extras = extra[-len(spatial) :] if len(spatial) <= 3 else (0,) * len(spatial)
            sizes = {
                axis.name: axis.legal((axis.smallest or 1) + more)
                for axis, more in zip(spatial, extras, strict=True)
            }
            if sizes not in found and np.prod(list(sizes.values())) <= LARGEST_IMAGE:
                found.append(sizes)
        return found

    def margins(self, array: Array, margin: int) -> list[slice]:
        """Return the region beyond `margin` from every border; at least the middle is left."""
        region: list[slice] = []
        for axis, size in zip(self.output.axes, array.shape, strict=True):
            lost = min(margin, (size - 1) // 2) if axis.kind == "space" else 0
            region.append(slice(lost, size - lost))
        return region

    @property
    def halo(self) -> int:
        """Largest declared halo."""
        return max(self.package.view.halo.values(), default=0)

    def compare_formats(self, formats: Sequence[str]) -> list[tuple[str, float, float, str]]:
        """Compare weights formats with the first, at several sizes.

        Returns
        -------
        list of tuple
            Format, largest difference inside, at the border, and the sizes.
        """
        reference, *others = formats
        found: list[tuple[str, float, float, str]] = []
        for sizes in self.sizes():
            words = " x ".join(str(v) for v in sizes.values())
            x = apply_operations(self.input.operations, self.image(sizes), self.in_names)
            with quiet():
                expected = self.graph(reference)(x)
                for name in others:
                    actual = self.graph(name)(x)
                    if actual.shape != expected.shape:
                        raise NotPossibleError(
                            f"{name} returns {actual.shape} and {reference} {expected.shape} "
                            f"at {words}"
                        )
                    inside = self.margins(expected, self.halo)
                    within, border = relative_difference(actual, expected, self.channel, inside)
                    found.append((name, within, border, words))
        return found

    def against_test_output(self, weights_format: str, *, padded: bool) -> tuple[float, float]:
        """Return the difference to the test output, inside and at the border.

        Parameters
        ----------
        weights_format : str
        padded : bool
            Whether the image is mirrored by the halo before and cropped after, as JDLL does.
        """
        process = self.process(weights_format)
        x = self.test_input
        if not padded:
            out = process(x)
        else:
            plane = self.plane_axes()
            window: list[slice] = [slice(None)] * x.ndim
            for position in plane:
                size = x.shape[position]
                axis = self.input.axes[position]
                if axis.size is not None and axis.size != size:
                    raise NotPossibleError("the test input has another size than declared")
                side = size if axis.size is not None else axis.legal(size + 2 * self.halo)
                before = self.halo if axis.size is None else 0
                rows = mirror_indices(-before, side - before, size, "symmetric")
                x = x.take(rows, axis=position)
                window[position] = slice(before, before + size)
            out = process(np.ascontiguousarray(x))[tuple(window)]
        expected = self.test_output
        if out.shape != expected.shape:
            raise NotPossibleError(
                f"the result has shape {out.shape}, the test output {expected.shape}"
            )
        return relative_difference(out, expected, self.channel, self.margins(expected, self.halo))

    def tiled_image(self, tile: tuple[int, int]) -> dict[str, int]:
        """Return the size of the image that is cut into tiles: more than one tile each way."""
        self.plane_axes()
        by_name = {axis.name: axis for axis in self.input.spatial}
        if any(axis.size is not None for axis in by_name.values()):
            raise NotPossibleError(
                "the model takes one size only: there is no whole image to compare"
            )
        found: dict[str, int] = {}
        for name, least, side in zip(("y", "x"), TILED_IMAGE, tile, strict=True):
            # Seams of a large tile lie deep inside only if the image grows with it.
            larger = side + 2 * LEAST_MARGIN if least > TILE else least
            found[name] = by_name[name].legal(max(least, larger))
        return found

    def against_whole(
        self,
        weights_format: str,
        *,
        tile: tuple[int, int],
        halo: int,
        mode: Literal["symmetric", "reflect"],
    ) -> tuple[float, float]:
        """Return the difference of tiles to the whole image, inside and at the border."""
        plane = self.plane_axes()
        sizes = self.tiled_image(tile)
        image = self.scene(sizes)
        process = self.process(weights_format)
        key = (weights_format, sizes["y"], sizes["x"])
        if key not in self._whole:
            self._whole[key] = process(image)
        whole = self._whole[key]
        if any(whole.shape[p] != image.shape[p] for p in plane):
            raise NotPossibleError("the output has another size than the input")
        joined = tiled(
            process,
            image,
            plane,
            tile=tile,
            halo=halo,
            mode=mode,
            rest=whole,
            most=MOST_TILES,
        )
        inside = self.margins(whole, max(halo, self.halo, LEAST_MARGIN))
        return relative_difference(joined, whole, self.channel, inside)
