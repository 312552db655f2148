"""Tiled prediction of one large plane by CAREamics and by ``dcbmz``: time per pixel and memory.

    python benchmarks/careamics.py [--side 2048] [--tile 512] [--overlap 48] [--rounds 3]
                                   [--networks 2x16 1x16 2x32] [--threads 1] [--work FOLDER]

CAREamics predicts with U-Nets of D levels and C channels (``DxC``): 2x16 has about the
multiplications per pixel of one iteration of the default network here, 1x16 about its parameters,
2x32 is its own default. Each is trained for three steps, since speed is all that is measured, and
predicts tile by tile as its documentation shows; ``dcbmz`` enhances the same plane by one
iteration, block by block. In turn, every round in a process of its own; printed are seconds of
``predict`` alone, by the clock and of processors, over those of ``dcbmz``, the same per
multiplication and addition of the network, and how far the peak of the resident memory lies above
what the process held before.

CAREamics lives in an environment of its own, made on first use in the cache folder or in
``--work``, over the packages of this one: it is installed without what it asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.physics.phantoms import phantom

_VERSION = "0.3.5"
_INSTALLED = (f"careamics=={_VERSION}", "torchmetrics<1.9", "microssim==0.0.5", "torchvision")

_COMMON = """
import json, sys, time
import numpy as np, torch
from torch.utils.flop_counter import FlopCounterMode
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
image = np.load(job["image"])
def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
def flops(network, *shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(shape))
    return counter.get_total_flops()
def measure(predict, network, flops_per_pixel):
    predict(image[:600, :600])
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far
    clock, processor = time.perf_counter(), time.process_time()
    result = predict(image)
    assert np.squeeze(result).shape == image.shape and np.isfinite(result).all()
    print("MEASURED", json.dumps([
        time.perf_counter() - clock, time.process_time() - processor,
        memory("VmHWM") - before, memory("VmHWM"),
        sum(p.numel() for p in network.parameters()), flops_per_pixel,
    ]))
"""

_OURS = """
import xarray as xr
from deepcontrast_bmz.enhance import enhance
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.network import DilatedNetwork
model, network = open_model("deepcontrast", device="cpu"), DilatedNetwork().eval()
def predict(pixels):
    return enhance(model, xr.DataArray(pixels, dims=("y", "x")), iterations=1).image.to_numpy()
extended = image.shape[0] + 2 * network.radius
measure(predict, network, flops(network, 1, 1, extended, extended) / image.size)
"""

_THEIRS = """
from careamics import CAREamist
from careamics.config import create_advanced_n2v_config
config = create_advanced_n2v_config(
    experiment_name="speed", data_type="array", axes="YX", patch_size=(64, 64), batch_size=4,
    num_epochs=1, num_steps=3, num_workers=0, seed=1,
    model_params={"depth": job["depth"], "num_channels_init": job["channels"]},
)
careamist = CAREamist(config, work_dir=job["folder"], enable_progress_bar=False)
careamist.train(train_data=image[:256, :256], val_data=image[:128, :128])
network = careamist.model.model.eval()
tile, overlap = job["tile"], job["overlap"]
def predict(pixels):
    found, _ = careamist.predict(
        pixels, batch_size=1, tile_size=(tile, tile), tile_overlap=(overlap, overlap),
        axes="YX", data_type="array", num_workers=0,
    )
    return found[0]
measure(predict, network, flops(network, 1, 1, tile, tile) / tile**2)
"""


class Spent(NamedTuple):
    """What one prediction took."""

    seconds: float
    processor: float
    """Processor seconds."""
    above: float
    """Megabytes of its peak above what the process held before."""
    peak: float
    """Largest resident memory of the process in megabytes."""
    parameters: int
    flops: float
    """Multiplications and additions of the network per pixel, those of surroundings included."""


def environment(work: Path | None) -> Path:
    """Return the python of an environment with CAREamics over the packages of this one."""
    folder = (work or make_cache_folder("environments")) / f"careamics-{_VERSION}"
    python, stamp = folder / "bin" / "python", folder / "ready"
    base = str(Path(np.__file__).parent.parent)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == base:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "--disable-pip-version-check", *_INSTALLED],
    ):
        subprocess.run(command, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = Path(__file__).parent.parent
    (site / "zz_base.pth").write_text(f"{base}\n{here}\n", encoding="utf-8")
    stamp.write_text(base, encoding="utf-8")
    return python


def run(python: Path, script: Path, folder: Path, job: dict[str, object]) -> Spent:
    """Return what a prediction took, in a process of its own."""
    done = subprocess.run(
        [str(python), "-W", "ignore", str(script), json.dumps(job)],
        # Not the folder of this file, where careamics would be this file itself.
        cwd=folder,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    return Spent(*json.loads(line.removeprefix("MEASURED")))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=["2x16", "1x16", "2x32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where the environment is made")
    options = parser.parse_args()
    python = environment(options.work)
    spent: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours, theirs = folder / "ours.py", folder / "theirs.py"
        ours.write_text(_COMMON + _OURS, encoding="utf-8")
        theirs.write_text(_COMMON + _THEIRS, encoding="utf-8")
        rng = np.random.default_rng(0)
        repeats = -(-options.side // 256)
        light = np.tile(phantom("mixed", (256, 256), rng), (repeats, repeats))
        light = light[: options.side, : options.side]
        np.save(folder / "image.npy", rng.poisson(200 * light + 20).astype(np.float32))
        job: dict[str, object] = {
            "image": str(folder / "image.npy"),
            "folder": str(folder),
            "threads": options.threads,
            "tile": options.tile,
            "overlap": options.overlap,
        }
        for number in range(options.rounds):
            spent.setdefault("dcbmz", []).append(run(Path(sys.executable), ours, folder, job))
            for name in options.networks:
                depth, channels = map(int, name.split("x"))
                own = {**job, "depth": depth, "channels": channels}
                spent.setdefault(f"CAREamics {name}", []).append(run(python, theirs, folder, own))
            print(
                f"round {number + 1}, load {os.getloadavg()[0]:.1f}: "
                + ", ".join(f"{name} {runs[-1].processor:.1f} s" for name, runs in spent.items()),
                flush=True,
            )
    print(
        f"\n{options.side} x {options.side}, tiles of {options.tile} with {options.overlap} of "
        f"overlap, {options.threads} thread(s), {options.rounds} rounds\n\n"
        "| network | parameters | kFLOP per pixel | microseconds of processors per pixel | time "
        "over dcbmz, processors | by the clock | per FLOP | memory above start | peak |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    base = spent["dcbmz"]
    for name, runs in spent.items():
        pairs = list(zip(base, runs, strict=True))
        ratios = [own.processor / first.processor for first, own in pairs]
        clock = statistics.median(own.seconds / first.seconds for first, own in pairs)
        work = runs[0].flops / base[0].flops
        middle = statistics.median(ratios)
        each = statistics.median(one.processor for one in runs) / options.side**2 * 1e6
        print(
            f"| {name} | {runs[0].parameters} | {runs[0].flops / 1e3:.1f} | {each:.2f} | "
            f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {clock:.2f} | "
            f"{middle / work:.2f} | {max(one.above for one in runs):.0f} MB | "
            f"{max(one.peak for one in runs):.0f} MB |"
        )


if __name__ == "__main__":
    main()
