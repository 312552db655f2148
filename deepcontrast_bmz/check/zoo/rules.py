"""Rules of an upload, and what the reviewers of the zoo ask, as far as files can answer.

Read in bioimageio.spec 0.5.12.0, _upload.py, and in bioimage-io/bioimage.io at 645a3cc:
src/components/Upload.tsx, src/components/ReviewWriter.tsx and
public/skills/bioimageio-models/SKILL.md.
"""

from __future__ import annotations

__all__ = ["REVIEW_RULES", "UPLOAD_RULES"]

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.check.zoo.upload import list_left_behind
from deepcontrast_bmz.package.description import as_list, as_map, text
from deepcontrast_bmz.package.files import load_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deepcontrast_bmz.package.files import Package

LARGEST_COVER = 500_000
COVER_RATIOS = (1.0, 2.0)
RATIO_TOLERANCE = 0.05
FEWEST_FILES, MOST_FILES = 5, 9
PLACEHOLDERS = ("author", "authors", "maintainer", "maintainers", "team", "contributors")


# ------------------------------------------------------------------------------ upload


def _find_has_id(package: Package) -> Iterator[str]:
    if text(package.rdf.get("id")):
        yield f"id {text(package.rdf['id'])!r}"


def _find_missing_files(package: Package) -> Iterator[str]:
    for reference in package.references:
        if not reference.remote and package.file(reference.source) is None:
            yield f"{reference.where}: no file {reference.source!r}"


def _find_same_names(package: Package) -> Iterator[str]:
    local = {r.source for r in package.references if not r.remote}
    counts = Counter(PurePosixPath(source).name for source in local)
    for name, count in counts.items():
        if count > 1:
            yield f"{count} files called {name}"


def _find_folders(package: Package) -> Iterator[str]:
    local = {r.source for r in package.references if not r.remote}
    inside = sorted(source for source in local if "/" in source)
    if inside:
        yield f"{len(inside)} files in folders, such as {inside[0]}"


def _find_own_config(package: Package) -> Iterator[str]:
    keys = as_map(as_map(package.rdf.get("config")).get("bioimageio"))
    if keys:
        yield f"config.bioimageio with {', '.join(sorted(keys))}"


def _find_description_name(package: Package) -> Iterator[str]:
    if package.rdf_name not in ("rdf.yaml", "bioimageio.yaml"):
        yield package.rdf_name


UPLOAD_RULES = read_rules(
    "upload",
    {
        "id": _find_has_id,
        "files": _find_missing_files,
        "same-names": _find_same_names,
        "description-name": _find_description_name,
        "folders": _find_folders,
        "website-config": _find_own_config,
    },
)


# ------------------------------------------------------------------------------ review


def _empty(key: str) -> Callable[[Package], Iterator[str]]:
    def find(package: Package) -> Iterator[str]:
        if package.rdf.get(key) in (None, "", [], {}):
            yield f"no {key}"

    return find


def _people(package: Package, key: str) -> list[dict[str, object]]:
    return [dict(as_map(person)) for person in as_list(package.rdf.get(key))]


def _find_placeholder_authors(package: Package) -> Iterator[str]:
    for person in _people(package, "authors"):
        words = text(person.get("name")).lower().replace("_", " ").split()
        reachable = any(person.get(k) for k in ("github_user", "orcid", "email"))
        if not reachable and (not words or any(word in PLACEHOLDERS for word in words)):
            yield f"author {text(person.get('name')) or 'without a name'!r}"


def _find_no_maintainers(package: Package) -> Iterator[str]:
    if _people(package, "maintainers"):
        return
    users = [p for p in _people(package, "authors") if p.get("github_user")]
    yield "no maintainers" if users else "neither maintainers nor an author with github_user"


def _find_uncited(package: Package) -> Iterator[str]:
    cites = [as_map(cite) for cite in as_list(package.rdf.get("cite"))]
    if not any(cite.get("doi") or cite.get("url") for cite in cites):
        yield "no cite with doi or url" if cites else "no cite"


def _documentation(package: Package) -> Path | None:
    value = package.rdf.get("documentation")
    source = text(as_map(value).get("source")) if isinstance(value, dict) else text(value)
    return package.file(source)


def _find_no_documentation(package: Package) -> Iterator[str]:
    if not package.rdf.get("documentation"):
        yield "no documentation"
        return
    path = _documentation(package)
    if path is not None and not path.read_text(encoding="utf-8", errors="replace").strip():
        yield f"{path.name}, which is empty"


def _covers(package: Package) -> Iterator[Path]:
    for value in as_list(package.rdf.get("covers")):
        source = text(as_map(value).get("source")) if isinstance(value, dict) else text(value)
        path = package.file(source)
        if path is not None:
            yield path


def _find_large_cover(package: Package) -> Iterator[str]:
    for path in _covers(package):
        size = path.stat().st_size
        if size > LARGEST_COVER:
            yield f"{path.name} of {size / 1000:.0f} kB"


def _find_cover_ratio(package: Package) -> Iterator[str]:
    from PIL import Image, UnidentifiedImageError

    for path in _covers(package):
        if path.suffix.lower() == ".svg":
            continue
        try:
            with Image.open(path) as opened:
                wide, high = opened.size
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            yield f"{path.name}, which is no picture"
            continue
        if all(abs(wide / high / ratio - 1) > RATIO_TOLERANCE for ratio in COVER_RATIOS):
            yield f"{path.name} of {wide} x {high} pixels"


def _find_no_samples(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        if not tensor.sample_source:
            yield f"none for {tensor.name}"


def _find_mostly_negative(package: Package) -> Iterator[str]:
    inputs = [load_tensor(package, tensor.test_source) for tensor in package.view.inputs]
    if any(x is None or x.size == 0 or x.dtype.kind not in "fiu" for x in inputs):
        return
    if any(float(x.min()) < 0 for x in inputs if x is not None):
        return
    for tensor in package.view.outputs:
        array = load_tensor(package, tensor.test_source)
        channel = next((i for i, a in enumerate(tensor.axes) if a.kind == "channel"), None)
        if array is None or channel is None or array.ndim != len(tensor.axes):
            continue
        negative = np.mean(array < 0, axis=tuple(i for i in range(array.ndim) if i != channel))
        share = float(negative.max(initial=0.0))
        if share > 0.5:
            worst = int(negative.argmax()) + 1
            yield f"{share:.0%} of channel {worst} of {tensor.test_source}"


def _find_no_training_data(package: Package) -> Iterator[str]:
    zoo = as_map(as_map(package.rdf.get("config")).get("bioimageio"))
    if not package.rdf.get("training_data") and not zoo.get("training"):
        yield "neither training_data nor config.bioimageio.training"


def _find_file_count(package: Package) -> Iterator[str]:
    count = 1 + len({reference.source for reference in package.references})
    if not FEWEST_FILES <= count <= MOST_FILES:
        yield f"{count} with rdf.yaml"


def _find_unreferenced(package: Package) -> Iterator[str]:
    left = list_left_behind(package)
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        yield f"{', '.join(left[:3])}{more}"


REVIEW_RULES = read_rules(
    "review",
    {
        "description": _empty("description"),
        "authors": _empty("authors"),
        "license": _empty("license"),
        "tags": _empty("tags"),
        "cite": _find_uncited,
        "documentation": _find_no_documentation,
        "cover": _empty("covers"),
        "cover-size": _find_large_cover,
        "cover-ratio": _find_cover_ratio,
        "real-authors": _find_placeholder_authors,
        "maintainers": _find_no_maintainers,
        "samples": _find_no_samples,
        "negative-output": _find_mostly_negative,
        "training-data": _find_no_training_data,
        "file-count": _find_file_count,
        "unreferenced": _find_unreferenced,
    },
)
