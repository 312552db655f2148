"""Runs the tests marked `reproducible` as under other processors, and sees that these differ.

    python .ci/reproducible.py

Every surrounding limits the instruction sets of torch, oneDNN, MKL, numpy, OpenBLAS and glibc, and
the threads. Beside the tests, the last bits of a few computations are compared: if no surrounding
changed them, the tests could not have failed, and that is an error, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

TESTS = ("tests/test_reproducible.py", "tests/test_shipped.py")


def surroundings() -> dict[str, dict[str, str]]:
    """Return the environment variables of each surrounding, by its name."""
    import numpy as np

    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    oldest = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        "OPENBLAS_CORETYPE": "Prescott",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX512VL",
    }
    avx2 = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }
    one, two = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}
    return {
        "as it is, 1 thread": one,
        "as it is, 2 threads": two,
        "oldest instructions, 1 thread": oldest | one,
        "oldest instructions, 2 threads": oldest | two,
        "AVX2, 2 threads": avx2 | two,
    }


def last_bits() -> dict[str, str]:
    """Return the hash of the result of each computation, in this process."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 16, 96, 96), np.float32))
    kernel = torch.from_numpy(rng.random((16, 16, 3, 3), np.float32))
    planes = torch.from_numpy(rng.standard_normal((16, 2**17), np.float32))
    square = rng.random((300, 300), np.float32)
    results = {
        "convolution": torch.nn.functional.conv2d(image, kernel).numpy(),
        "sum": torch.stack([plane.sum() for plane in planes]).numpy(),
        "transform": torch.fft.irfft2(torch.fft.rfft2(image.double())).numpy(),
        "exponential": np.exp(square),
        "product of matrices": square @ square,
    }
    return {what: hashlib.sha256(value.tobytes()).hexdigest() for what, value in results.items()}


def main() -> int:
    """Run all, print what was the same and what was not, and return the exit code."""
    failed: list[str] = []
    seen: dict[str, dict[str, str]] = {}
    for name, variables in surroundings().items():
        environment = {**os.environ, **variables}
        run = [sys.executable, __file__, "--last-bits"]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        seen[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"== {name}", flush=True)
        tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "reproducible"]
        if subprocess.run([*tests, *TESTS], env=environment, check=False).returncode:
            failed.append(name)
    print("== last bits of other computations")
    for what in next(iter(seen.values())):
        kinds = {bits[what] for bits in seen.values()}
        print(f"{what}: {len(kinds)} different results in {len(seen)} surroundings")
    one, two, *_ = seen.values()
    if len({bits["convolution"] for bits in seen.values()}) == 1:
        failed.append("the instruction sets changed no last bit, so nothing was tested")
    if one["sum"] == two["sum"]:
        failed.append("the threads changed no last bit, so nothing was tested")
    for name in failed:
        print(f"failed: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    if "--last-bits" in sys.argv:
        print(json.dumps(last_bits()))
        sys.exit(0)
    sys.exit(main())
