"""Values: whether weights formats agree at every size, and tiles with the whole image.

What programs do with borders and tiles is done here, whoever runs the network: the torch or
onnxruntime of this process, or the program's own engine.
"""

from __future__ import annotations

__all__ = ["Batch", "Bench", "Comparison", "Difference", "Margin"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.check.engines.networks import (
    describe_stand_in,
    explain_not_run,
    load_network,
)
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.processing import apply_operations
from deepcontrast_bmz.check.tiling import (
    Handling,
    NotPossibleError,
    cut,
    join,
    measure_difference,
    take,
)
from deepcontrast_bmz.image.blocks import mirror_indices
from deepcontrast_bmz.package.files import load_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepcontrast_bmz.package.files import Package

Array = NDArray[Any]
Batch = Callable[[Sequence[Array]], list[Array]]
"""Runs a model on raw arrays, all handed over at once: starting some engines takes seconds."""

LEAST_MARGIN = 32
"""Pixels at the border where tiles and whole image may differ, since programs pad differently."""
LARGEST_IMAGE = 2**21
"""Pixels, or voxels."""
SMALLER = 16
"""Pixels that an image below the smallest size has at least."""


@dataclass(frozen=True)
class Difference:
    """How far an image is from what it should be, over the range of the worst channel."""

    sizes: tuple[int, ...]
    """Of the image, along (z,) y, x."""
    within: float
    """Inside."""
    border: float
    """Within the halo of the border."""
    has_inside: bool = True
    """Whether any pixel lies farther from the border than the halo."""

    @property
    def words(self) -> str:
        """The size."""
        return " x ".join(map(str, self.sizes))


@dataclass(frozen=True)
class Margin:
    """How far from the border an image is not inside, along (z,) y, x."""

    wanted: tuple[int, ...]
    """Pixels; fewer where nothing but the middle would be left."""
    needed: tuple[int, ...]
    """Pixels, even if nothing is left."""


@dataclass(frozen=True)
class Comparison:
    """What an engine made of the test input and of larger and smaller images."""

    test: Difference
    """From the test output."""
    sizes: tuple[Difference, ...]
    """From the whole image, run here with the same weights."""
    too_rigid: str
    """Why other sizes were not compared; empty if they were."""
    smaller: tuple[Difference, ...] = ()
    """Of images below the smallest size, from the whole image mirrored up to it."""


@dataclass
class Bench:
    """Runs the weights of one package on images of many sizes; keeps what it loaded."""

    package: Package
    run_code: bool = False
    _graphs: dict[str, Callable[[Array], Array]] = field(
        default_factory=dict[str, "Callable[[Array], Array]"]
    )
    _whole: dict[tuple[str, tuple[int, ...]], Array] = field(
        default_factory=dict[tuple[str, tuple[int, ...]], "Array"]
    )

    def __post_init__(self) -> None:
        """Look at the tensors once; `NotPossibleError` if none or several can be compared."""
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

    def find_positions(self) -> tuple[int, ...]:
        """Return the positions of (z,) y and x, the same in input and output."""
        names = [axis.name for axis in self.input.spatial]
        if names not in (["y", "x"], ["z", "y", "x"]):
            raise NotPossibleError(
                f"only images with the axes (z,) y, x are compared, not {', '.join(names)}"
            )
        found = tuple(self.in_names.index(name) for name in names)
        if [n for n in self.out_names if n in names] != names or found != tuple(
            self.out_names.index(name) for name in names
        ):
            raise NotPossibleError("the axes of input and output are in another order")
        return found

    @property
    def halo(self) -> tuple[int, ...]:
        """Declared halo along (z,) y, x; none where only one size is taken."""
        declared = self.package.view.halo
        return tuple(
            0 if axis.size is not None else declared.get(axis.name, 0)
            for axis in self.input.spatial
        )

    # ------------------------------------------------------------------------ running

    def load_graph(self, weights_format: str) -> Callable[[Array], Array]:
        """Return the network of one weights format as a function of arrays."""
        if weights_format not in self._graphs:
            refused = explain_not_run(
                self.package, weights_format, run_code=self.run_code, own=True
            )
            if refused:
                raise NotPossibleError(refused)
            self._graphs[weights_format] = load_network(
                self.package, weights_format, run_code=self.run_code
            )
        return self._graphs[weights_format]

    def describe_stand_in(self, weights_format: str) -> str:
        """Return what runs these weights in place of the package's code; empty if nothing does."""
        return describe_stand_in(self.package, weights_format, run_code=self.run_code)

    def preprocess(self, x: Array) -> Array:
        """Return an array after the declared preprocessing."""
        return apply_operations(self.input.operations, x, self.in_names)

    def postprocess(self, out: Array) -> Array:
        """Return the network's result after the declared postprocessing."""
        return apply_operations(self.output.operations, out, self.out_names)

    def run_here(self, weights_format: str) -> Batch:
        """Return preprocessing, network and postprocessing in this process."""
        graph = self.load_graph(weights_format)

        def run(arrays: Sequence[Array]) -> list[Array]:
            with quiet():
                return [self.postprocess(graph(self.preprocess(x))) for x in arrays]

        return run

    def wrap(self, run: Callable[[Sequence[Array]], list[Array]]) -> Batch:
        """Return a network that runs elsewhere, with pre- and postprocessing done here."""

        def whole(arrays: Sequence[Array]) -> list[Array]:
            return [self.postprocess(out) for out in run([self.preprocess(x) for x in arrays])]

        return whole

    # ------------------------------------------------------------------------- images

    def make_image(self, sizes: Mapping[str, int], *, shift: int = 0) -> Array:
        """Return the raw test input, mirrored or cropped to these sizes by axis id.

        It begins `shift` thirds of the test input further on.
        """
        x = self.test_input
        for index, name in enumerate(self.in_names):
            if name in sizes:
                size = x.shape[index]
                start = shift * (size // 3 + 1)
                indices = mirror_indices(start, start + sizes[name], size)
                x = x.take(indices, axis=index)
        return np.ascontiguousarray(x)

    def make_scene(self, sizes: Mapping[str, int]) -> Array:
        """Return an image of these sizes that is nowhere its own mirror image.

        Where it was, a tile that ends there would go on as the image does, and hide its seam.
        """
        return (self.make_image(sizes) + self.make_image(sizes, shift=1)) / 2

    def _make_legal(self, wanted: Sequence[Sequence[int]]) -> list[dict[str, int]]:
        """Return legal sizes by axis id, each once, without those that are too large."""
        found: list[dict[str, int]] = []
        for sizes in wanted:
            legal = {
                axis.name: axis.legal(size)
                for axis, size in zip(self.input.spatial, sizes, strict=True)
            }
            if legal not in found and np.prod(list(legal.values())) <= LARGEST_IMAGE:
                found.append(legal)
        return found

    def list_sizes(self) -> list[dict[str, int]]:
        """Return the smallest legal size and some odd ones."""
        smallest = [axis.smallest or 1 for axis in self.input.spatial]
        if len(smallest) > 3:
            return self._make_legal([smallest])
        extra = ((0, 0, 0), (3, 1, 16), (1, 37, 54), (2, 64, 5))
        return self._make_legal(
            [
                [s + e for s, e in zip(smallest, more[-len(smallest) :], strict=True)]
                for more in extra
            ]
        )

    def list_tiled_sizes(self, handling: Handling) -> list[dict[str, int]]:
        """Return sizes larger than two tiles, and smaller than one, with edge tiles off the grid.

        Raises
        ------
        NotPossibleError
            If the model takes one size only, or these images are too large to run.
        """
        if handling.tile is None:
            return self.list_sizes()
        if any(axis.size is not None for axis in self.input.spatial):
            raise NotPossibleError(
                "the model takes one size only: there is no whole image to compare"
            )
        inner = [max(t - 2 * h, 1) for t, h in zip(handling.tile, handling.halo, strict=True)]
        *_, high, _ = handling.tile
        *deep, tall, wide = inner
        wanted = [
            [*deep, 2 * high + 41, (3 * wide // 4) | 1],
            [*(3 * d // 2 for d in deep), (7 * tall // 8) | 1, wide + 49],
        ]
        found = self._make_legal(wanted)
        if not found:
            raise NotPossibleError("images of more than one tile are too large to run here")
        return found

    def handle_whole(self, *, padded: bool) -> Handling:
        """Return the handling of programs that run images whole; `padded`: mirrored by the halo."""
        return Handling(self.halo if padded else (0,) * len(self.halo), "symmetric")

    def list_smaller_sizes(self, handling: Handling) -> list[dict[str, int]]:
        """Return a size below the smallest that the model takes, where tiles are filled up."""
        smallest = [axis.minimum or 1 for axis in self.input.spatial]
        free = all(axis.size is None for axis in self.input.spatial)
        if handling.tile is None or not free or max(smallest[-2:]) < 2 * SMALLER:
            return []
        names = [axis.name for axis in self.input.spatial]
        sizes = [s if n == "z" else (2 * s // 3) | 1 for n, s in zip(names, smallest, strict=True)]
        return [dict(zip(names, sizes, strict=True))]

    # --------------------------------------------------------------------- comparing

    def find_inside(self, array: Array, margin: Margin) -> list[slice]:
        """Return the region beyond a margin from every border; empty where there is none."""
        region = [slice(0, size) for size in array.shape]
        names = [axis.name for axis in self.input.spatial]
        for index, name in enumerate(names):
            if name in self.out_names:
                position = self.out_names.index(name)
                size = array.shape[position]
                lost = min(max(margin.wanted[index], margin.needed[index]), (size - 1) // 2)
                lost = max(lost, margin.needed[index])
                region[position] = slice(lost, max(size - lost, lost))
        return region

    def measure(self, actual: Array, expected: Array, margin: Sequence[int] | Margin) -> Difference:
        """Compare two results; a margin along (z,) y, x parts inside and border.

        Of a plain margin at least the middle is left inside.
        """
        if actual.shape != expected.shape:
            raise NotPossibleError(
                f"the result has shape {actual.shape} where {expected.shape} was expected"
            )
        if not isinstance(margin, Margin):
            margin = Margin(tuple(margin), (0,) * len(margin))
        inside = self.find_inside(expected, margin)
        names = [axis.name for axis in self.input.spatial]
        sizes = tuple(n for a, n in zip(self.out_names, expected.shape, strict=True) if a in names)
        return Difference(
            sizes,
            *measure_difference(actual, expected, self.channel, inside),
            has_inside=all(part.stop > part.start for part in inside),
        )

    def run_whole(self, weights_format: str, sizes: Mapping[str, int]) -> Array:
        """Return the result of the scene of these sizes, whole, in this process.

        Below the smallest size it is mirrored up to that, and the result cropped.
        """
        key = (weights_format, tuple(sizes.values()))
        if key not in self._whole:
            scene = self.make_scene(sizes)
            for axis in self.input.spatial:
                size = sizes[axis.name]
                indices = mirror_indices(0, axis.legal(size), size)
                scene = scene.take(indices, axis=self.in_names.index(axis.name))
            (whole,) = self.run_here(weights_format)([np.ascontiguousarray(scene)])
            crop = [slice(sizes.get(n)) if n in sizes else slice(None) for n in self.out_names]
            self._whole[key] = whole[tuple(crop)]
        return self._whole[key]

    def compare(self, batch: Batch, weights_format: str, handling: Handling) -> Comparison:
        """Run test input and images of several sizes as a program handles them.

        `batch` is its engine; whole images are run here, with the same weights format.

        Raises
        ------
        NotPossibleError
            If the package leaves nothing to compare.
        """
        positions = self.find_positions()
        too_rigid = ""
        try:
            several = self.list_tiled_sizes(handling)
        except NotPossibleError as error:
            several, too_rigid = [], str(error)
        smaller = self.list_smaller_sizes(handling)
        images = [np.asarray(self.test_input), *map(self.make_scene, (*several, *smaller))]
        wholes = [
            self.test_output,
            *(self.run_whole(weights_format, sizes) for sizes in (*several, *smaller)),
        ]
        joined = self._run_handled(batch, images, wholes, handling, positions)
        least = LEAST_MARGIN if handling.tile is not None else 0
        seen = tuple(max(a, b) for a, b in zip(handling.halo, self.halo, strict=True))
        # Where a program goes on beyond the border otherwise than the network, the halo differs.
        needed = (0,) * len(seen) if handling.border == "symmetric" else seen
        margin = Margin(tuple(max(halo, least) for halo in seen), needed)
        found = [
            self.measure(done, whole, margin) for done, whole in zip(joined, wholes, strict=True)
        ]
        return Comparison(
            test=found[0],
            sizes=tuple(found[1 : 1 + len(several)]),
            too_rigid=too_rigid,
            smaller=tuple(found[1 + len(several) :]),
        )

    def _run_handled(
        self,
        batch: Batch,
        images: Sequence[Array],
        wholes: Sequence[Array],
        handling: Handling,
        positions: Sequence[int],
    ) -> list[Array]:
        """Return what a program makes of images; where it runs no tile, the whole stands."""
        legal = [axis.legal for axis in self.input.spatial]
        plans = [cut([x.shape[p] for p in positions], handling, legal) for x in images]
        given = [
            take(x, positions, block, handling)
            for x, blocks in zip(images, plans, strict=True)
            for block in blocks
        ]
        outputs = iter(batch(given))
        joined: list[Array] = []
        for x, whole, blocks in zip(images, wholes, plans, strict=True):
            if whole.ndim != x.ndim or any(whole.shape[p] != x.shape[p] for p in positions):
                raise NotPossibleError("the output has another size than the input")
            parts = [next(outputs) for _ in blocks]
            joined.append(join(parts, blocks, positions, [x.shape[p] for p in positions], whole))
        return joined

    def compare_formats(self, formats: Sequence[str]) -> list[tuple[str, Difference]]:
        """Compare weights formats with the first, at several sizes: format and difference."""
        reference, *others = formats
        found: list[tuple[str, Difference]] = []
        for sizes in self.list_sizes():
            x = self.preprocess(self.make_image(sizes))
            with quiet():
                expected = self.load_graph(reference)(x)
                for name in others:
                    actual = self.load_graph(name)(x)
                    if actual.shape != expected.shape:
                        words = " x ".join(map(str, sizes.values()))
                        raise NotPossibleError(
                            f"{name} returns {actual.shape} and {reference} {expected.shape} "
                            f"at {words}"
                        )
                    found.append((name, self.measure(actual, expected, self.halo)))
        return found
