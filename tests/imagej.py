"""ImageJ and Groovy for the tests: the small Maven project in `tests/java`, without a screen."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from needed import require

from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.check.engines.java import explain_missing_java, java, maven

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SOURCES = Path(__file__).parent / "java"
GROOVY = {"QuPath 0.6": "4.0.26", "QuPath 0.7": "5.0.4"}
SECONDS = 600


def class_path(groovy: str) -> str:
    """Compile the project once for a version of Groovy; afterwards no Maven is needed."""
    digest = hashlib.sha256(groovy.encode())
    for path in [SOURCES / "pom.xml", *sorted(SOURCES.glob("src/**/*.java"))]:
        digest.update(path.read_bytes())
    folder = make_cache_folder("java", "attachments") / digest.hexdigest()[:12]
    listed = folder / "classpath.txt"
    if java() is None:
        require("there is no Java")
    if not listed.is_file() or not all(
        Path(jar).is_file() for jar in listed.read_text(encoding="utf-8").split(os.pathsep)
    ):
        reason = explain_missing_java()
        if reason is not None:
            require(reason)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"classpath.{os.getpid()}"
        done = subprocess.run(
            [
                str(maven()),
                "--batch-mode",
                "--quiet",
                f"--file={SOURCES / 'pom.xml'}",
                f"-Dbuild.folder={folder}",
                f"-Dgroovy.version={groovy}",
                "compiler:compile",
                "dependency:build-classpath",
                f"-Dmdep.outputFile={unfinished}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        if "COMPILATION ERROR" in done.stdout:
            pytest.fail(done.stdout, pytrace=False)
        if done.returncode != 0:
            require(f"Maven could not fetch ImageJ and Groovy: {done.stdout[-400:]}")
        jars = unfinished.read_text(encoding="utf-8").strip()
        unfinished.write_text(jars, encoding="utf-8")
        unfinished.replace(listed)
    return os.pathsep.join([str(folder / "classes"), listed.read_text(encoding="utf-8")])


@dataclass(frozen=True)
class Told:
    """What a job said, and whether it came to its end."""

    text: str
    ended: bool
    errors: str = ""
    """What went to standard error."""


def run_jobs(jobs: Sequence[Sequence[object]], groovy: str = GROOVY["QuPath 0.6"]) -> list[Told]:
    """Run jobs of `tests/java/src/Jobs.java` in one Java process."""
    path = class_path(groovy)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ["\t".join(map(str, job)) for job in jobs]
        (folder / "jobs.tsv").write_text("\n".join(lines), encoding="utf-8")
        command = [str(java()), "-Djava.awt.headless=true", f"-Djava.io.tmpdir={folder}"]
        done = subprocess.run(
            [
                *command,
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-cp",
                path,
                "Jobs",
                str(folder / "jobs.tsv"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        left = [path.name for path in folder.iterdir() if path.name.startswith("deepcontrast_")]
        assert not left, left
        told: list[Told] = []
        # The first part is what Java says before the first job.
        errors = re.split(r"^job \d+\n", done.stderr, flags=re.MULTILINE)[1:]
        assert len(errors) == len(jobs), done.stderr
        for index in range(len(jobs)):
            *said, end = (folder / f"{index}.txt").read_text(encoding="utf-8").strip().split("\n")
            told.append(Told("\n".join(said), end == "ended", errors[index]))
    return told


@dataclass(frozen=True)
class Opened:
    """An image as ImageJ reads it."""

    pixels: NDArray[np.float32]
    """(t, z, c, y, x)."""
    labels: tuple[str, ...]
    shown: tuple[tuple[float, float], ...]
    facts: dict[str, str]


def read_opened(result: Path) -> Opened:
    """Read what the job `open` wrote."""
    lines = Path(f"{result}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines]
    facts = {key: value for key, value in pairs if key not in ("label", "shown")}
    pixels = np.fromfile(f"{result}.raw", "<f4").reshape([int(n) for n in facts["shape"].split()])
    shown = [tuple(map(float, value.split())) for key, value in pairs if key == "shown"]
    return Opened(
        pixels,
        tuple(value for key, value in pairs if key == "label"),
        tuple((low, high) for low, high in shown),
        facts,
    )
