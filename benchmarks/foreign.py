"""Environments with other people's exporters, and the scripts that run in them.

Each environment lies over the packages of this one: what an exporter pins lies in its own folder
and comes first; torch, which is gigabytes, is the one of this environment.
"""

from __future__ import annotations

__all__ = ["EXPORTERS", "Exporter", "build_environment", "run_script"]

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepcontrast_bmz.check.engines.cache import make_cache_folder

LONGEST_MESSAGE = 2000
"""Characters of an exporter's error that are shown: the end of its traceback."""

SURROUNDINGS = {
    "OMP_WAIT_POLICY": "passive",
    "CUDA_VISIBLE_DEVICES": "",
    # bioimageio.spec would look up whether authors exist.
    "BIOIMAGEIO_PERFORM_IO_CHECKS": "false",
}
"""Environment variables of a script."""


@dataclass(frozen=True)
class Exporter:
    """Somebody else's program that writes packages."""

    name: str
    """Its name and version, and the name of its environment."""
    installed: tuple[str, ...]
    """What pip installs, without what these ask for."""
    script: str
    """Python that writes ``sys.argv[1]``, a zip, in the folder it is run in."""
    over_torch: bool = True
    """Whether it lies over the packages of this environment; else it brings all its own."""


_CAREAMICS = """
import sys
from pathlib import Path

import numpy as np
from careamics import CAREamist
from careamics.config import create_advanced_n2v_config

config = create_advanced_n2v_config(
    experiment_name="tiny", data_type="array", axes="YX", patch_size=(32, 32), batch_size=4,
    num_epochs=1, num_steps=3, num_workers=0, seed=1,
    model_params={"depth": 2, "num_channels_init": 8},
)
image = (200 + 50 * np.random.default_rng(0).random((96, 96))).astype(np.float32)
careamist = CAREamist(config, work_dir=Path.cwd(), enable_progress_bar=False)
careamist.train(train_data=image, val_data=image[:64, :64])
careamist.export_to_bmz(
    path_to_archive=Path(sys.argv[1]), friendly_model_name="Tiny Noise2Void", input_array=image,
    authors=[{"name": "Somebody"}], general_description="A tiny Noise2Void.",
    data_description="Random numbers.",
)
"""

_BIAPY = """
import shutil
import sys
from pathlib import Path

import numpy as np
import tifffile
from biapy import BiaPy

rng = np.random.default_rng(0)
for part in ("train", "test"):
    Path(part).mkdir()
    for index in range(2):
        image = (200 + 50 * rng.random((64, 64))).astype(np.uint16)
        tifffile.imwrite(f"{part}/{index}.tif", image, photometric="minisblack")
settings = {
    "PROBLEM": {"TYPE": "DENOISING", "NDIM": "2D"},
    "DATA": {
        "PATCH_SIZE": (64, 64, 1),
        "NORMALIZATION": {"TYPE": "zero_mean_unit_variance"},
        "TRAIN": {"PATH": "train", "IN_MEMORY": True},
        "VAL": {"FROM_TRAIN": True, "SPLIT_TRAIN": 0.5},
        "TEST": {"PATH": "test", "IN_MEMORY": True},
    },
    "AUGMENTOR": {"ENABLE": False},
    "MODEL": {"ARCHITECTURE": "unet", "FEATURE_MAPS": [8, 16, 32], "DROPOUT_VALUES": [0.0] * 3},
    "TRAIN": {
        "ENABLE": True, "OPTIMIZER": "ADAM", "LR": 1.0e-4, "BATCH_SIZE": 1, "EPOCHS": 1,
    },
    "SYSTEM": {"NUM_WORKERS": 0, "SEED": 1},
    "TEST": {"ENABLE": False},
}
job = BiaPy(settings, result_dir="results", name="tiny", run_id=1, gpu="", verbose=True)
job.run_job()
job.export_model_to_bmz(
    "build",
    bmz_cfg={
        "model_name": "Tiny BiaPy", "description": "A tiny Noise2Void.", "license": "MIT",
        "authors": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "tags": ["denoising"], "cite": [],
        "data": {"name": "noise", "doi": "10.48550/arXiv.2308.08365", "image_modality": "none"},
    },
)
(made,) = Path("build").glob("*.zip")
shutil.copyfile(made, sys.argv[1])
"""

_INSTANSEG = """
import os
import shutil
import sys
from pathlib import Path

import matplotlib
matplotlib.use("agg")
import numpy as np
import pandas as pd
import tifffile
import torch

here = Path.cwd()
os.environ["INSTANSEG_MODEL_PATH"] = str(here / "models")
os.environ["INSTANSEG_BIOIMAGEIO_PATH"] = str(here / "zoo")
os.environ["INSTANSEG_TORCHSCRIPT_PATH"] = str(here / "scripts")
for name in ("models/instanseg_tiny", "zoo", "scripts"):
    (here / name).mkdir(parents=True)

from instanseg.utils.create_bioimageio_model import export_bioimageio
from instanseg.utils.loss.instanseg_loss import InstanSeg, InstanSeg_Torchscript
from instanseg.utils.model_loader import build_model_from_dict

facts = {
    "model_str": "InstanSeg_UNet", "dim_in": 1, "dim_out": 5, "n_sigma": 2, "dim_coords": 2,
    "dim_seeds": 1, "layers": "(8, 16)", "norm": "BATCH", "dropprob": 0.0,
    "cells_and_nuclei": False, "target_segmentation": "N", "channel_invariant": False,
    "requested_pixel_size": 0.5, "multihead": False, "feature_engineering_function": "0",
    "source_dataset": "none", "mlp_width": 5,
}
pd.Series(facts).to_csv(here / "models/instanseg_tiny/experiment_log.csv", header=False)
torch.manual_seed(0)
network = build_model_from_dict({
    **facts, "layers": (8, 16), "feature_engineering": "0", "pixel_size": 0.5,
})
method = InstanSeg(n_sigma=2, device="cpu", feature_engineering_function="0")
network = method.initialize_pixel_classifier(network, MLP_width=5).eval()
torch.nn.init.constant_(network.pixel_classifier.fc3.bias, 1.0)
weights = here / "models/instanseg_tiny/model_weights.pth"
torch.save({"model_state_dict": network.state_dict()}, weights)
script = torch.jit.script(InstanSeg_Torchscript(
    network, pixel_size=0.5, n_sigma=2, backbone_dim_in=1,
    # An untrained network finds nothing at the thresholds of trained ones.
    params={"seed_threshold": 0.0, "mask_threshold": 0.5, "mean_threshold": -9.0, "min_size": 1},
).eval())
raw = 200 + 50 * np.random.default_rng(0).random((256, 256))
tifffile.imwrite("raw.tif", raw.astype(np.uint16), photometric="minisblack")
export_bioimageio(script, "instanseg_tiny", "raw.tif", pixel_size=0.5, test=False, version="0.1.0")
shutil.copyfile(here / "zoo/instanseg_tiny.zip", sys.argv[1])
"""

_KERAS = """
import sys

import numpy as np
from tensorflow import keras

keras.utils.set_random_seed(3)
image = keras.Input((None, None, 1))
inner = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
network = keras.Model(image, keras.layers.Conv2D(2, 3, padding="same")(inner))
network.save(sys.argv[1], save_format="h5")
raw = (100 * np.random.default_rng(0).random((1, 72, 65, 1))).astype(np.float32)
np.save("in.npy", raw)
np.save("out.npy", network(raw).numpy())
"""


EXPORTERS = {
    e.name: e
    for e in (
        Exporter(
            "careamics-0.3.5",
            ("careamics==0.3.5", "torchmetrics<1.9", "microssim==0.0.5", "torchvision"),
            _CAREAMICS,
        ),
        Exporter(
            "biapy-3.7.1",
            (
                *("biapy==3.7.1", "bioimageio.core==0.9.6", "bioimageio.spec==0.5.7.4"),
                *("xarray==2025.1.2", "timm==1.0.14", "torchmetrics==1.4.3", "torchvision"),
                *("yacs", "edt", "fastremap", "fill_voids", "h5py", "huggingface_hub", "joblib"),
                *("importlib_resources", "numba", "llvmlite", "narwhals", "nibabel", "pooch"),
                *("opencv-python-headless", "pydot", "pytorch-msssim", "requests", "safetensors"),
                *("scikit-learn", "tensorboardX", "threadpoolctl", "torch_fidelity", "torchinfo"),
                *("charset-normalizer", "httpcore2", "httpx2", "hf-xet", "truststore"),
            ),
            _BIAPY,
        ),
        Exporter(
            "instanseg-0.1.2",
            (
                *("instanseg-torch==0.1.2", "torchvision", "kornia", "kornia_rs", "monai"),
                *("einops", "fastremap", "requests", "charset-normalizer", "seaborn", "bioio"),
                # The release of the zoo's library of its time: newer ones refuse covers as text.
                *("opencv-python-headless", "bioimageio.core==0.9.6", "bioimageio.spec==0.5.7.4"),
            ),
            _INSTANSEG,
        ),
        # What networks of BiaPy import, in the place of all of BiaPy.
        Exporter("torchvision", ("torchvision",), ""),
        Exporter("keras-2.15", ("tensorflow-cpu==2.15.1",), _KERAS, over_torch=False),
    )
}
"""By the name of the environment."""


def build_environment(exporter: Exporter, work: Path | None = None) -> Path:
    """Return the python of an environment with an exporter, made on first use.

    Parameters
    ----------
    exporter : Exporter
    work : Path or None
        Where the environment is made; None is the cache folder.

    Raises
    ------
    subprocess.CalledProcessError
        If it cannot be installed.
    """
    folder = (work or make_cache_folder("environments")) / exporter.name
    python, stamp = folder / "bin" / "python", folder / "ready"
    base = str(Path(np.__file__).parent.parent) if exporter.over_torch else "alone"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == base:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    alone = ["--no-deps"] if exporter.over_torch else []
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *alone]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "--disable-pip-version-check", *exporter.installed],
    ):
        subprocess.run(command, check=True)
    if exporter.over_torch:
        (site,) = folder.glob("lib/python*/site-packages")
        here = Path(__file__).parent.parent
        (site / "zz_base.pth").write_text(f"{base}\n{here}\n", encoding="utf-8")
    stamp.write_text(base, encoding="utf-8")
    return python


def run_script(python: Path, folder: Path, *arguments: object) -> None:
    """Run a script of another environment in a folder.

    Raises
    ------
    RuntimeError
        With the end of what it printed, if it ends otherwise than well.
    """
    done = subprocess.run(
        [str(python), "-W", "ignore", *map(str, arguments)],
        # Not the folder of this file, where careamics.py would be taken for CAREamics.
        cwd=folder,
        env={**os.environ, **SURROUNDINGS},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip()[-LONGEST_MESSAGE:])
