"""Back ends for one iteration, as ratios within one run, and where the time of the fastest goes.

    python benchmarks/network.py [--side 512] [--threads 1] [--runs 5] [--all] [--profile]

The default network takes an extended image of `side` x `side` pixels through one iteration on
every back end in turn; the first, uncounted round warms up. Printed are processor seconds over
those of `dcbmz predict`'s own way (above 1: slower), median and spread over the runs, the median
in nanoseconds per pixel, and the largest difference to double precision over the range.
Processor time is what a shared machine disturbs least. ``--all`` adds bfloat16, and torch.compile,
which needs a C++ compiler; ``--profile`` adds a table of operators.
"""

from __future__ import annotations

import argparse
import functools
import io
import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from baselines import richardson_lucy

from deepcontrast_bmz.export.fast_loop import SameSizeNetwork
from deepcontrast_bmz.model.network import DilatedNetwork
from deepcontrast_bmz.model.network.layers import sort_pairs
from deepcontrast_bmz.model.network.strips import InStrips, fold_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deepcontrast_bmz.model.network.layers import AffineConv

    Works = dict[str, Callable[[], object]]


def padded(network: DilatedNetwork, x: Tensor) -> Tensor:
    """Run the same layers with the edge replicated before each, so that the size stays."""
    g = network.first.same(x)
    for layer in network.hidden:
        g = g + sort_pairs(layer.same(g))  # pyright: ignore[reportCallIssue]
    return x + network.last(g) * network.scale


class Plain(torch.nn.Module):
    """The network with its kernels computed once."""

    def __init__(self, network: DilatedNetwork) -> None:
        super().__init__()
        self.first = network.first.kernel()
        layers = [cast("AffineConv", layer) for layer in network.hidden]
        self.hidden = [(layer.kernel(), layer.dilation) for layer in layers]
        self.last = network.last.kernel() * network.scale
        self.radius = network.radius

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step."""
        r = self.radius
        g = F.conv2d(x, self.first)
        for kernel, m in self.hidden:
            g = sort_pairs(F.conv2d(g, kernel, dilation=m)).add_(g[:, :, m:-m, m:-m])
        return x[:, :, r:-r, r:-r] + F.conv2d(g, self.last)


class Folded(Plain):
    """The same in the basis of `strips`, whole."""

    def __init__(self, network: DilatedNetwork) -> None:
        super().__init__(network)
        self.first, self.second, _, hidden, self.last = fold_network(network)
        self.hidden = [(layer.kernel, layer.dilation) for layer in hidden]

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step."""
        r, half = self.radius, self.first.shape[0] // 2
        assert self.second is not None
        m = 1
        g = F.conv2d(x, self.first)[:, :, m:-m, m:-m]
        c = F.conv2d(x, self.second)
        g = g + torch.cat((c[:, :half], c[:, half:].abs()), dim=1)
        for kernel, m in self.hidden:
            c = F.conv2d(g, kernel, dilation=m)
            g = torch.cat((c[:, :half], c[:, half:].abs()), dim=1) + g[:, :, m:-m, m:-m]
        return x[:, :, r:-r, r:-r] + F.conv2d(g, self.last)


def open_session(module: torch.nn.Module, x: Tensor, threads: int) -> Callable[[], Any]:
    """Return a run of a module by ONNX Runtime."""
    file = io.BytesIO()
    axes = {2: "y", 3: "x"}
    export: Any = torch.onnx.export
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            module, (x,), file, dynamo=False, opset_version=17, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": axes, "y": axes},
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    array = x.numpy()
    return lambda: torch.from_numpy(session.run(None, {"x": array})[0])


def torchscript(module: torch.nn.Module, x: Tensor, *, scripted: bool = False) -> Callable[[], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Any = torch.jit.script(module) if scripted else torch.jit.trace(module.eval(), x)
        graph = torch.jit.freeze(script.eval())
    return lambda: graph(x)


def back_ends(network: DilatedNetwork, x: Tensor, threads: int, *, everything: bool) -> Works:
    strips, first = InStrips(network), InStrips(network, channels_last=False)
    last_format = x.contiguous(memory_format=torch.channels_last)
    plain, folded, same_size = Plain(network), Folded(network), SameSizeNetwork(network)
    channels_last = Plain(network)
    channels_last.hidden = [
        (kernel.contiguous(memory_format=torch.channels_last), m) for kernel, m in plain.hidden
    ]
    half = DilatedNetwork().bfloat16().eval()
    half.load_state_dict(network.state_dict())
    r = network.radius
    inside = x[:, :, r:-r, r:-r].contiguous()
    raw = inside[0, 0].double().numpy()
    works: Works = {
        "strips, folded, channels last (dcbmz predict)": lambda: strips(x),
        "strips, folded, channels first": lambda: first(x),
        "torch, whole": lambda: network(x),
        "torch, whole, kernels once": lambda: plain(x),
        "torch, whole, kernels once, channels last": lambda: channels_last(last_format),
        "torch, whole, folded": lambda: folded(x),
        "torch, edge replicated before each layer": lambda: padded(network, inside),
        "TorchScript of the strips (exported)": torchscript(strips, x, scripted=True),
        "TorchScript, traced": torchscript(plain, x),
        "ONNX Runtime, convolutions, sums, Relu (exported)": open_session(same_size, x, threads),
        "ONNX Runtime, folded": open_session(folded, x, threads),
        "ONNX Runtime": open_session(plain, x, threads),
    }
    if everything:
        works["torch, whole, bfloat16"] = lambda: half(x.bfloat16())
        for name, module in (("as it is", plain), ("folded", folded)):
            works[f"torch.compile, {name}"] = functools.partial(torch.compile(module), x)
    works["40 Richardson-Lucy iterations"] = lambda: richardson_lucy(
        raw, 1.0, (5.5, 24.0), (0.7, 0.3), 40
    )
    return works


def profile_operators(work: Callable[[], object]) -> None:
    """Print where the time goes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    events: Any = profiler.key_averages()
    found = sorted(((e.self_cpu_time_total, e.count, e.key) for e in events), reverse=True)
    total = sum(microseconds for microseconds, _, _ in found)
    print("\n| operator | share of time | calls |\n|---|---|---|")
    for microseconds, count, name in found[:8]:
        print(f"| {name} | {100 * microseconds / total:.1f} % | {count} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="bfloat16 and torch.compile, too")
    parser.add_argument("--profile", action="store_true", help="operator by operator")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = DilatedNetwork().eval().requires_grad_(requires_grad=False)
    reach = 2 * network.radius
    x = torch.rand(1, 1, options.side + reach, options.side + reach) * 100 + 10
    seconds: dict[str, list[float]] = {}
    differences: dict[str, float] = {}
    with torch.inference_mode():
        exact = DilatedNetwork().double()
        exact.load_state_dict(network.state_dict())
        truth = exact(x.double())
    # Tracing wants a network outside of inference mode.
    works = back_ends(network, x, options.threads, everything=options.all)
    with torch.inference_mode():
        for number in range(options.runs + 1):
            for name, work in works.items():
                begun = time.process_time()
                result = work()
                if number:
                    seconds.setdefault(name, []).append(time.process_time() - begun)
                elif isinstance(result, torch.Tensor) and "edge" not in name:
                    spread = float(truth.max() - truth.min())
                    differences[name] = float((result.double() - truth).abs().max()) / spread
    base = next(iter(seconds.values()))
    print(f"{options.side} x {options.side}, {options.threads} thread(s), {options.runs} runs\n")
    print("| back end | time | spread | ns per pixel | difference |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, base, strict=True)]
        off = f"{differences[name]:.0e}" if name in differences else ""
        each = 1e9 * statistics.median(values) / options.side**2
        print(
            f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
            f"| {each:.0f} | {off} |"
        )
    if options.profile:
        with torch.inference_mode():
            profile_operators(next(iter(works.values())))
            profile_operators(works["torch, whole"])


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
