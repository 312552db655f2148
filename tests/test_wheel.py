"""The built wheel, installed into an empty environment and run from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import raw_stack

from deepcontrast_bmz import enhance, open_model, read_image, write_image

ROOT = Path(__file__).parent.parent


def run(*command: object, folder: Path) -> str:
    """Run a program without the checkout on its path; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel.

    Its dependencies are those of this environment, linked by a .pth file: to install torch anew
    would take minutes.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, folder=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", folder=folder)
    bin_folder = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / ("python.exe" if os.name == "nt" else "python")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps")
    run(*pip, wheel, folder=folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(run(python, "-c", code, folder=folder).strip())
    (target / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


@pytest.mark.slow
def test_the_wheel_predicts_and_exports_with_the_shipped_model(
    installed: Path, tmp_path: Path
) -> None:
    write_image(raw_stack(planes=1), tmp_path / "my_stack.tif")
    code = "import deepcontrast_bmz; print(deepcontrast_bmz.__file__)"
    where = Path(run(installed / "python", "-c", code, folder=tmp_path).strip())
    assert where.is_relative_to(installed.parent)
    dcbmz = installed / "dcbmz"
    assert "predict" in run(dcbmz, "--help", folder=tmp_path)
    options = ("--dial", "1", "--device", "cpu")
    said = run(
        dcbmz, "predict", "deepcontrast", "my_stack.tif", "-o", "e.tif", *options, folder=tmp_path
    )
    assert "dial 1" in said
    image = read_image(tmp_path / "my_stack.tif")
    here = enhance(open_model("deepcontrast", device="cpu"), image, dial=1.0).image.to_numpy()
    there = read_image(tmp_path / "e.tif").to_numpy()
    assert np.abs(there - here).max() < 1e-5 * np.ptp(here)
    run(dcbmz, "export", "deepcontrast", "-o", "m.zip", folder=tmp_path)
    with zipfile.ZipFile(tmp_path / "m.zip") as package:
        assert {"rdf.yaml", "deepcontrast_fiji.ijm"} <= set(package.namelist())
