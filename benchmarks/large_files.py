"""Measures opening and reading large inputs: seconds, and memory of a process of its own.

A 5 GB stack as ImageJ writes it beyond 4 GB (one directory for all planes), a folder of 2,000
planes, an OME-TIFF of 200 images, and an OME-TIFF in 500 files with a companion file; all are made
in a temporary folder and removed.

    python benchmarks/large_files.py --folder /tmp
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

_CHILD = """
import json, sys, time
from pathlib import Path
import dask.array, tifffile, xarray, zarr
from deepcontrast_bmz.image import open_image
def status(field):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # the highest memory begins from here
before = status("VmRSS")
begun = time.perf_counter()
scene = sys.argv[2] if len(sys.argv) > 2 else None
image = open_image(Path(sys.argv[1]), scene=scene)
opened = time.perf_counter() - begun
shape = image.shape
begun = time.perf_counter()
total = sum(int(image.pixels[i].sum()) for i in range(shape[0]))
read = time.perf_counter() - begun
print(json.dumps([shape, total, opened, read, status("VmHWM") - before]))
"""


def write_imagej(path: Path, planes: int, side: int) -> int:
    """Write one directory and then all planes, as ImageJ does beyond 4 GB; return their sum."""
    tifffile.imwrite(
        path,
        shape=(planes, side, side),
        dtype=np.uint16,
        imagej=True,
        truncate=True,
        byteorder=">",
        metadata={"axes": "TYX", "unit": "um"},
        resolution=(2, 2),
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.series[0].dataoffset or 0
    ramp = np.arange(side * side, dtype=np.uint32).reshape(side, side) % 4096
    target = np.memmap(path, ">u2", "r+", offset, (planes, side, side))
    for i in range(planes):
        target[i] = ramp + i
    target.flush()
    return planes * int(ramp.sum()) + side * side * planes * (planes - 1) // 2


def write_folder(folder: Path, planes: int, side: int) -> int:
    """Write numbered planes, two channels of each time; return their sum."""
    folder.mkdir()
    for i in range(planes):
        plane = np.full((side, side), i % 60000, np.uint16)
        tifffile.imwrite(folder / f"e_w{i % 2 + 1}_t{i // 2 + 1:04}.tif", plane)
    return side * side * planes * (planes - 1) // 2


def write_scenes(path: Path, scenes: int, planes: int, side: int) -> int:
    """Write one file of many images; return the sum of the last."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for i in range(scenes):
            content = np.full((planes, side, side), i, np.uint16)
            about = {"axes": "ZYX", "Name": f"Position {i}"}
            writer.write(content, photometric="minisblack", metadata=about)
    return planes * side * side * (scenes - 1)


def write_companion(folder: Path, planes: int, side: int) -> int:
    """Write planes in files of their own and a companion file; return their sum."""
    folder.mkdir()
    data: list[str] = []
    for i in range(planes):
        name = f"p{i:04}.ome.tif"
        about = f'<OME UUID="{i}"><BinaryOnly MetadataFile="i.companion.ome" UUID="u"/></OME>'
        plane = np.full((side, side), i, np.uint16)
        tifffile.imwrite(folder / name, plane, description=about, metadata=None)
        data.append(
            f'<TiffData FirstT="{i}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{i}'
            "</UUID></TiffData>"
        )
    (folder / "i.companion.ome").write_text(
        '<OME UUID="u"><Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint16" '
        f'SizeX="{side}" SizeY="{side}" SizeZ="1" SizeC="1" SizeT="{planes}"><Channel '
        f'SamplesPerPixel="1"/>{"".join(data)}</Pixels></Image></OME>'
    )
    return side * side * planes * (planes - 1) // 2


def measure(name: str, expected: int, *words: object) -> None:
    """Print what reading all planes of an input one after the other took."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, words)], capture_output=True, text=True, check=True
    )
    shape, total, opened, read, grown = json.loads(done.stdout.splitlines()[-1])
    if total != expected:
        raise SystemExit(f"{name}: the sum of the pixels is {total}, not {expected}")
    size = " x ".join(map(str, shape))
    print(f"| {name} | {size} | {opened:.2f} s | {read:.1f} s | {grown:.0f} MB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the inputs are made")
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes, for a quick look")
    options = parser.parse_args()
    share = options.share
    print("| input | pixels | opened | all planes read | memory beyond the libraries' |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        path = folder / "stack.tif"
        expected = write_imagej(path, round(640 * share), 2048)
        size = path.stat().st_size / 1e9
        measure(f"ImageJ, one directory, {size:.1f} GB", expected, path)
        path.unlink()
        expected = write_folder(folder / "planes", round(2000 * share), 512)
        measure("folder of planes", expected, folder / "planes")
        count = round(200 * share)
        path = folder / "scenes.ome.tif"
        expected = write_scenes(path, count, 5, 512)
        measure(f"OME-TIFF of {count} images, the last", expected, path, f"Position {count - 1}")
        expected = write_companion(folder / "parts", round(500 * share), 512)
        measure("companion file", expected, folder / "parts" / "i.companion.ome")


if __name__ == "__main__":
    main()
