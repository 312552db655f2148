"""What README and docs show is run, and what they name exists."""

from __future__ import annotations

import ast
import gc
import json
import pkgutil
import re
import shlex
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from conftest import raw_stack

from deepcontrast_bmz.cli import main
from deepcontrast_bmz.export.package import export_run
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.settings import recipe_to_toml

if TYPE_CHECKING:
    from deepcontrast_bmz.settings import Recipe

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language; those without one have the language ''."""
    found: list[str] = []
    inside: str | None = None
    lines: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif inside is None:
            inside, lines = line[3:], []
        else:
            if inside == language:
                found.append("\n".join(lines))
            inside = None
    return found


def commands(page: Path) -> list[list[str]]:
    """Lines of the blocks without a language that call dcbmz."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("dcbmz ")]


def page_commands(page: Path) -> list[str]:
    """Every line of a page that calls dcbmz, in a block of any kind; broken lines made whole."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    inside = False
    found: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif (inside or line.startswith("    ")) and line.lstrip().startswith("dcbmz "):
            found.append(" ".join(line.split()))
    return found


def examples(page: Path) -> list[str]:
    """Every piece of a page that can be run: commands, then blocks of Python."""
    return page_commands(page) + blocks(page, "python")


OWN_TESTS = ("README.md", "python.md")
"""Pages whose examples are run by tests of their own, which also look at the results."""

NOT_RUN = {
    (
        "large.md",
        "dcbmz predict MODEL recording.zarr -o enhanced.zarr --scheduler tcp://10.0.0.1:8786",
    ): "needs a scheduler at an address; tests/predict starts one of its own",
    (
        "volumes.md",
        "dcbmz train STACK.tif -o RUN --recipe examples/volume.toml",
    ): "fits stacks for minutes after two steps, too; tests/model/test_volumes.py has a tiny one",
}
"""Examples that no test here runs, each with the reason."""

WITH_EXAMPLES = [page for page in PAGES if examples(page) and page.name not in OWN_TESTS]

SHORTENED = {
    "check": ["--run", "none"],
    "publish": ["--run", "none"],
    "view": ["--no-open"],
}
"""What is added to a command, so that it takes seconds and starts nothing."""

VERDICTS = ("evaluate", "check", "publish")
"""Commands that judge, and end with 1 where the judgement of a model of seven steps is bad."""


@pytest.fixture
def examples_folder(
    tmp_path: Path, tiny_run: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with small files of the names that the pages use."""
    write_image(raw_stack(planes=4), tmp_path / "my_stack.tif")
    shutil.copytree(tiny_run, tmp_path / "RUN")
    export_run(tiny_run, tmp_path / "theirs.zip")
    shutil.copy(tmp_path / "theirs.zip", tmp_path / "my_model.zip")
    (tmp_path / "tiny.toml").write_text(recipe_to_toml(tiny_recipe), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run_command(line: str) -> None:
    """Run one command of a page, shortened, and hold that it ends as it should."""
    words = shlex.split(line)[1:]
    extra = SHORTENED.get(words[0], [])
    if words[0] == "train":
        # The tiny network in the place of the shipped one.
        shorter = {"--from": "RUN", "--steps": "2"}
        words = [
            shorter.get(before, word) for before, word in zip(["", *words], words, strict=False)
        ]
        extra = [] if "--resume" in words else ["--recipe", "tiny.toml"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *extra])
    allowed = (None, 0, 1) if words[0] in VERDICTS else (None, 0)
    assert ended.value.code in allowed, line
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists(), line


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
@pytest.mark.usefixtures("examples_folder")
def test_every_example_of_a_page_runs(page: Path) -> None:
    """In the order of the page, since later ones use what earlier ones wrote."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", category=FutureWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        for line in page_commands(page):
            if (page.name, line) not in NOT_RUN:
                run_command(line)
        for code in blocks(page, "python"):
            if (page.name, code) not in NOT_RUN:
                exec(compile(code, page.name, "exec"), {})
        gc.collect()


def test_every_example_left_out_stands_on_its_page() -> None:
    shown = {(page.name, example) for page in WITH_EXAMPLES for example in examples(page)}
    assert set(NOT_RUN) <= shown
    assert all(NOT_RUN.values())


@pytest.fixture
def with_my_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the image that the examples name."""
    monkeypatch.chdir(tmp_path)
    write_image(raw_stack(planes=2), tmp_path / "my_stack.tif")
    return tmp_path


def test_readme_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "pip install -e . && dcbmz demo" in lines
    assert 'pip install -e ".[test]" && pytest' in lines


def test_readme_commands_run(with_my_stack: Path) -> None:
    found = commands(ROOT / "README.md")
    assert {line[1] for line in found} == {"predict", "train", "evaluate", "export", "check"}
    for line in found:
        # Training is cut short; every other command runs as it stands, but for real engines.
        extra = {"train": ["--steps", "2"], "check": ["--run", "none"]}.get(line[1], [])
        with pytest.raises(SystemExit) as ended:
            main([*line[1:], *extra])
        # What two steps of training gave is refused by the verdict, rightly.
        allowed = (0, None, 1) if line[1] == "evaluate" else (0, None)
        assert ended.value.code in allowed, line
    names = {path.name for path in with_my_stack.iterdir()}
    assert {"enhanced.tif", "iterations.tif", "my_run", "my_scores", "my_model.zip"} <= names
    assert (with_my_stack / "my_scores/report.html").is_file()


def test_readme_python_runs(with_my_stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert read_image(with_my_stack / "enhanced.tif").shape == (2, 72, 72)
    assert capsys.readouterr().out.strip()


def test_python_page_runs_and_its_ways_agree(
    tmp_path: Path,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stack = raw_stack(planes=2, size=160)
    write_image(stack, tmp_path / "my_stack.tif")
    package = export_run(tiny_run, tmp_path / "my_model.zip")
    codes = blocks(ROOT / "docs/python.md", "python")
    assert len(codes) == 5
    with warnings.catch_warnings():
        # torch announces the end of TorchScript; bioimageio.core leaves files open.
        warnings.filterwarnings("ignore", r".*torch\.jit", category=FutureWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        for code in codes:
            exec(compile(code, "docs/python.md", "exec"), {})
        gc.collect()
    assert package.is_file()
    assert capsys.readouterr().out.strip()
    ours = read_image(tmp_path / "iterations.tif").transpose("z", "c", "y", "x").to_numpy()[0]
    for name in ("from_onnx", "from_torch", "from_core"):
        theirs = tifffile.imread(tmp_path / f"{name}.tif")
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < 1e-3 * np.ptp(ours), name
    dial = read_image(tmp_path / "dial_stack.tif").transpose("z", "y", "x").to_numpy()[0]
    by_hand = tifffile.imread(tmp_path / "dial.tif")
    assert np.abs(by_hand - dial).max() < 1e-4 * np.ptp(dial)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "docs" / "examples").glob("*.ipynb")), ids=lambda path: path.name
)
def test_a_notebook_imports_what_exists(notebook: Path) -> None:
    # The site executes it whole, at the end of CI; type checkers do not read notebooks.
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = [
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def test_the_readme_shows_every_folder_and_nothing_else() -> None:
    tree = blocks(ROOT / "README.md", "")[-1]
    house = ROOT / "deepcontrast_bmz"
    folders = {path.name for path in house.iterdir() if (path / "__init__.py").exists()}
    shown = re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)
    assert sorted(shown) == sorted(folders)


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} == linked


def test_every_page_of_the_index_is_in_the_menu_of_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w/-]+\.(?:md|ipynb))\)", index))
    assert set(re.findall(r"^ +- [\w ]+: ([\w/]+\.(?:md|ipynb))$", menu, re.MULTILINE)) == {
        "index.md",
        *linked,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_a_page_are_short(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        free = line.startswith("|") or "http" in line or line.startswith("![") or "`" * 3 in line
        assert len(line) <= 100 or free, f"line {number} has {len(line)} characters"
