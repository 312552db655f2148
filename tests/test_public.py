"""The public face of the package: what ``import deepcontrast_bmz`` offers, and how fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import deepcontrast_bmz

FILE = Path(deepcontrast_bmz.__file__)
NAMES = sorted(set(deepcontrast_bmz.__all__) - {"__version__"})


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, deepcontrast_bmz; dir(deepcontrast_bmz); "
        "heavy = {'torch', 'numpy', 'xarray', 'pydantic', 'lightning', 'bioimageio', 'yaml'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_images_and_recipes_loads_no_torch() -> None:
    code = (
        "import sys; from deepcontrast_bmz import read_image, read_recipe, write_image; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_a_function_with_its_own_documentation(name: str) -> None:
    function = getattr(deepcontrast_bmz, name)
    assert callable(function)
    assert function.__doc__
    assert name in dir(deepcontrast_bmz)


def test_type_checkers_see_the_names_that_run() -> None:
    """Every public name comes from the same place for both."""
    typed: dict[str, object] = {}
    for block in ast.parse(FILE.read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If):
            for node in block.body:
                exec(ast.unparse(node), typed)
    assert {name: typed[name] for name in NAMES} == {
        name: getattr(deepcontrast_bmz, name) for name in NAMES
    }


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing a submodule sets an attribute of the package, which would hide the function."""
    modules = {path.stem for path in FILE.parent.iterdir() if not path.name.startswith("_")}
    assert not modules & set(NAMES)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'enhanse'"):
        getattr(deepcontrast_bmz, "enhanse")  # noqa: B009 - pyright knows that it is not there


def test_the_version_is_that_of_the_installation() -> None:
    assert deepcontrast_bmz.__version__ == version("deepcontrast_bmz")
