"""What the tests of the checker share; tests with real engines may not skip everywhere."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import needed
import pytest
import torch

from deepcontrast_bmz.export.package import export_run
from deepcontrast_bmz.export.publication import make_publication

from .spoilt_packages import Copy, make_good

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def require() -> Callable[[str | None], None]:
    """Skip with the reason if there is one; fail where DCBMZ_ENGINES is `required`."""
    return needed.require


@pytest.fixture(autouse=True)
def _unoptimised() -> Iterator[None]:
    """TorchScript would be optimised anew for every size, which takes longer than running it."""
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that no program objects to."""
    folder = tmp_path_factory.mktemp("good")
    make_good(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a run, as a folder."""
    folder = tmp_path_factory.mktemp("exported")
    packed = export_run(
        tiny_run,
        folder / "tiny.zip",
        publication=make_publication(maintainers=["Somebody:no-such-user"]),
    )
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def spoilt_run(exported: Path, tmp_path: Path) -> Copy:
    """A copy of the package of a run to be spoilt."""
    folder = tmp_path / "spoilt_run"
    shutil.copytree(exported, folder)
    return Copy(folder)


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Copy:
    """A copy of it to be spoilt."""
    folder = tmp_path / "spoilt"
    shutil.copytree(good, folder)
    return Copy(folder)
