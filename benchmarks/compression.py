"""How outputs are best packed: size and processor time of each compression, both formats.

    python benchmarks/compression.py IMAGE [IMAGE ...] [--model MODEL] [--runs 3]

Every image is enhanced once, whole, by one iteration; the result is then written as float32 and,
rounded and clipped, as 16-bit counts, and read back. Printed are the size over that of the bare
pixels and processor seconds per gigabyte for writing and reading, medians of the runs; the
smallest and largest over the images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.image import read_image, select_channel, write_image
from deepcontrast_bmz.image.pixel_type import fit_pixels
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict.enhance import enhance

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

FORMS: tuple[tuple[str, str | None], ...] = (
    ("tif", "none"),
    ("tif", "zlib"),
    ("tif", "zstd"),
    ("zarr", "none"),
    ("zarr", None),
    ("zarr", "zlib"),
    ("zarr", "zstd"),
)


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _read(path: Path) -> None:
    read_image(path).to_numpy()


def measure(image: xr.DataArray, suffix: str, packed: str | None, runs: int) -> list[float]:
    """Return share of the size, and seconds per gigabyte to write and to read."""
    writing: list[float] = []
    reading: list[float] = []
    share = 0.0
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"image.ome.{suffix}"
            writing.append(seconds(partial(write_image, image, path, compression=packed)))
            reading.append(seconds(partial(_read, path)))
            inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            share = sum(p.stat().st_size for p in inside) / image.nbytes
    gigabytes = image.nbytes / 1e9
    times = (statistics.median(writing) / gigabytes, statistics.median(reading) / gigabytes)
    return [share, *times]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="deepcontrast")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    model = open_model(options.model, device="cpu")
    results: dict[tuple[str, str, str | None], list[list[float]]] = {}
    for path in options.images:
        image = read_image(path)
        image = select_channel(image, 0) if "c" in image.dims else image
        result = enhance(model, image, iterations=1).image
        counts, _ = fit_pixels(result.to_numpy(), np.dtype(np.uint16))
        for kind, pixels in (("float32", result), ("uint16", result.copy(data=counts))):
            for form in FORMS:
                found = measure(pixels, *form, options.runs)
                results.setdefault((kind, form[0], form[1]), []).append(found)
    print("pixels  format  packed   size           s/GB to write  s/GB to read")
    for (kind, suffix, packed), found in results.items():
        columns = [f"{min(c):.2f} to {max(c):.2f}" for c in zip(*found, strict=True)]
        print(f"{kind:8s}{suffix:8s}{packed or 'default':9s}" + "  ".join(columns), flush=True)


if __name__ == "__main__":
    main()
