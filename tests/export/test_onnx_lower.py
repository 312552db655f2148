from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from deepcontrast_bmz.export.onnx_lower import (
    IR_VERSION,
    OPSET_VERSION,
    NotLowerableError,
    lower_onnx,
    read_opset,
    strip_debug,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE = np.random.default_rng(0).random((2, 3, 7, 6)).astype(np.float32) + 0.5


def numbers(name: str, values: Any) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def reals(name: str, values: Any) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.float32), name)


def model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 8,
    free: bool = True,
    outputs: int = 1,
) -> onnx.ModelProto:
    """A model that takes the image as `x` and returns `out0`, `out1`, ..."""
    shape = ["b", 3, "y", "w"] if free else list(IMAGE.shape)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, None) for i in range(outputs)],
        initializer=tensors or [],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    # As exporters write them, with the sizes that can be known.
    return onnx.shape_inference.infer_shapes(made)


def run(made: onnx.ModelProto, x: NDArray[Any] = IMAGE) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(out) for out in session.run(None, {"x": x})]


def node(kind: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [f"out{i}" for i in range(outputs)], **attributes)


SIZES = helper.make_node("Shape", ["x"], ["shape"], start=2)
DOUBLED = helper.make_node("Mul", ["shape", "two"], ["sizes"])
TWO = numbers("two", 2)

SAME: dict[str, onnx.ModelProto] = {
    "pad whole": model(
        [node("Pad", ["x", "p"], mode="reflect")], [numbers("p", [0, 0, 1, 2, 0, 0, 3, 1])]
    ),
    "pad some axes": model(
        [node("Pad", ["x", "p", "", "a"], mode="edge")],
        [numbers("p", [1, 2, 3, 4]), numbers("a", [-1, 2])],
    ),
    "pad with a value": model(
        [node("Pad", ["x", "p", "v", "a"])],
        [numbers("p", [1, 2]), numbers("a", [3]), reals("v", 7)],
    ),
    "pad by the size": model(
        [
            SIZES,
            helper.make_node("Concat", ["shape", "shape"], ["p"], axis=0),
            node("Pad", ["x", "p", "", "a"]),
        ],
        [numbers("a", [2, 3])],
    ),
    **{
        f"reduce {kind}": model([node(f"Reduce{kind}", ["x", "a"])], [numbers("a", [2, 3])])
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "reduce without keeping": model(
        [node("ReduceMean", ["x", "a"], keepdims=0)], [numbers("a", [-1])]
    ),
    "reduce everything": model([node("ReduceMax", ["x"])], opset=20),
    "reduce by empty axes": model([node("ReduceMin", ["x", "a"])], [numbers("a", [])]),
    "reduce nothing": model([node("ReduceMean", ["x"], noop_with_empty_axes=1)]),
    "reduce by a constant node": model(
        [helper.make_node("Constant", [], ["a"], value_ints=[1]), node("ReduceMean", ["x", "a"])]
    ),
    "split evenly": model([node("Split", ["x"], 3, axis=1, num_outputs=3)], outputs=3),
    "split unevenly": model([node("Split", ["x"], 2, axis=1, num_outputs=2)], outputs=2),
    "split a free axis": model([node("Split", ["x"], 3, axis=2, num_outputs=3)], outputs=3),
    "split a free axis from the end": model(
        [node("Split", ["x"], 2, axis=-1, num_outputs=2)], outputs=2
    ),
    "split by sizes": model(
        [node("Split", ["x", "s"], 2, axis=1)], [numbers("s", [1, 2])], outputs=2
    ),
    "resize whole": model(
        [node("Resize", ["x", "", "s"], mode="nearest")], [reals("s", [1, 1, 2, 2])]
    ),
    "resize some axes": model(
        [node("Resize", ["x", "", "s"], mode="linear", axes=[2, 3])],
        [reals("s", [2, 3])],
        opset=19,
    ),
    "resize some axes, cubic, corners aligned": model(
        [
            node(
                "Resize",
                ["x", "", "s"],
                mode="cubic",
                axes=[-2, -1],
                coordinate_transformation_mode="align_corners",
                cubic_coeff_a=-0.75,
            )
        ],
        [reals("s", [2, 1.5])],
    ),
    "resize to sizes": model(
        [SIZES, DOUBLED, node("Resize", ["x", "", "", "sizes"], mode="linear", axes=[2, 3])], [TWO]
    ),
    "scatter": model(
        [node("ScatterElements", ["x", "i", "u"], axis=3, reduction="add")],
        [numbers("i", [[[[0]]]]), reals("u", [[[[5]]]])],
    ),
    "grid sample": model(
        [node("GridSample", ["x", "g"], mode="linear")],
        [reals("g", np.linspace(-1, 1, 2 * 4 * 5 * 2).reshape(2, 4, 5, 2))],
        opset=20,
    ),
    "grid sample, cubic": model(
        [node("GridSample", ["x", "g"], mode="cubic")],
        [reals("g", np.linspace(-0.9, 1, 2 * 4 * 5 * 2).reshape(2, 4, 5, 2))],
        opset=22,
    ),
    "fourier": model(
        [
            helper.make_node("Unsqueeze", ["x", "last"], ["complex"]),
            node("DFT", ["complex", "", "axis"]),
        ],
        [numbers("last", [4]), numbers("axis", 3)],
        opset=20,
    ),
    "gelu": model([node("Gelu", ["x"], approximate="tanh")], opset=20),
    "mish": model([node("Mish", ["x"])]),
    "swish": model([node("Swish", ["x"], alpha=1.5)], opset=24, ir_version=10),
    "centre": model([node("CenterCropPad", ["x", "s"], axes=[2, 3])], [numbers("s", [4, 9])]),
    "group normalisation": model(
        [node("GroupNormalization", ["x", "s", "b"], num_groups=3)],
        [reals("s", [1, 2, 3]), reals("b", [0, 1, 0])],
        opset=21,
        ir_version=10,
    ),
    "convolution": model(
        [node("Conv", ["x", "k"], dilations=[2, 2])],
        [reals("k", np.ones((4, 3, 2, 2)))],
        opset=22,
        ir_version=10,
    ),
    "average": model([node("AveragePool", ["x"], kernel_shape=[2, 2], dilations=[1, 1])], opset=19),
    "cast": model([node("Cast", ["x"], to=TensorProto.FLOAT, saturate=1)], opset=21),
    "shape": model([SIZES, node("Cast", ["shape"], to=TensorProto.FLOAT)], opset=23, ir_version=11),
}


@pytest.mark.parametrize("name", SAME)
def test_lowered_model_gives_the_same_values(name: str) -> None:
    newer = SAME[name]
    assert read_opset(newer) > OPSET_VERSION
    given = newer.SerializeToString()
    lowered = lower_onnx(newer)
    assert newer.SerializeToString() == given, "the given model is not touched"
    assert read_opset(lowered) == OPSET_VERSION
    assert lowered.ir_version <= IR_VERSION
    for expected, got in zip(run(newer), run(lowered), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    again = lower_onnx(newer)
    assert again.SerializeToString(deterministic=True) == lowered.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", ["split a free axis", "pad by the size", "resize to sizes"])
def test_lowered_model_takes_other_sizes(name: str) -> None:
    other = np.random.default_rng(1).random((1, 3, 9, 10)).astype(np.float32)
    for expected, got in zip(
        run(SAME[name], other), run(lower_onnx(SAME[name]), other), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_branches_are_lowered_too() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(f"Reduce{kind}", ["x", "a"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, ["b", 3, 1, "w"])],
        )
        for kind in ("Max", "Min")
    ]
    choose = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], then_branch=branches[0], else_branch=branches[1]),
    ]
    newer = model(choose, [numbers("a", [2]), reals("zero", 0)])
    lowered = lower_onnx(newer)
    for x in (IMAGE, -IMAGE):
        assert np.array_equal(run(lowered, x)[0], run(newer, x)[0])


def test_functions_of_the_model_are_written_out() -> None:
    shrink = helper.make_function(
        "own",
        "Shrink",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["axes"], value_ints=[1]),
            helper.make_node("ReduceMean", ["a", "axes"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    graph = model([node("Relu", ["x"])]).graph
    graph.node[0].op_type = "Shrink"
    graph.node[0].domain = "own"
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info("out0", TensorProto.FLOAT, ["b", 1, "y", "w"])
    )
    newer = helper.make_model(
        graph,
        functions=[shrink],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        ir_version=8,
    )
    lowered = lower_onnx(newer)
    assert not lowered.functions
    np.testing.assert_allclose(run(lowered)[0], IMAGE.mean(axis=1, keepdims=True), rtol=1e-6)


def test_model_of_opset_17_is_left_as_it_is() -> None:
    old = model([node("ReduceMean", ["x"], axes=[1])], opset=17)
    assert lower_onnx(old).SerializeToString() == old.SerializeToString()
    older = model([node("ReduceMean", ["x"], axes=[1])], opset=11, ir_version=10)
    lowered = lower_onnx(older)
    assert read_opset(lowered) == 11
    assert lowered.ir_version == IR_VERSION


REFUSED: list[tuple[onnx.ModelProto, str]] = [
    (
        model(
            [node("Pad", ["x", "p"], mode="wrap")],
            [numbers("p", [0, 0, 1, 1, 0, 0, 1, 1])],
            opset=19,
        ),
        r"Pad .*mode is wrap",
    ),
    (
        model(
            [SIZES, node("ReduceMean", ["x", "shape"])],
        ),
        r"ReduceMean .*axes are computed",
    ),
    (model([node("ReduceL2", ["x"], noop_with_empty_axes=1)]), "ReduceL2 .*no axis"),
    (
        model(
            [node("Resize", ["x", "", "s"], mode="linear", antialias=1)],
            [reals("s", [1, 1, 0.5, 0.5])],
        ),
        "Resize .*antialias",
    ),
    (
        model(
            [
                node(
                    "Resize",
                    ["x", "", "", "s"],
                    mode="linear",
                    keep_aspect_ratio_policy="not_larger",
                )
            ],
            [numbers("s", [2, 3, 4, 4])],
        ),
        "Resize .*keep_aspect_ratio_policy is not_larger",
    ),
    (
        model(
            [
                node(
                    "Resize",
                    ["x", "", "s"],
                    mode="linear",
                    coordinate_transformation_mode="half_pixel_symmetric",
                )
            ],
            [reals("s", [1, 1, 2, 2])],
            opset=19,
        ),
        "Resize .*half_pixel_symmetric",
    ),
    (
        model(
            [node("ScatterElements", ["x", "i", "u"], reduction="max")],
            [numbers("i", [[[[0]]]]), reals("u", [[[[5]]]])],
        ),
        "ScatterElements .*reduction is max",
    ),
    (
        model(
            [node("AveragePool", ["x"], kernel_shape=[2, 2], dilations=[2, 2])],
            opset=19,
        ),
        "AveragePool .*dilations",
    ),
    (
        model(
            [node("Col2Im", ["x", "s", "k"])],
            [numbers("s", [4, 4]), numbers("k", [1, 1])],
        ),
        "Col2Im .*new in opset 18",
    ),
    (
        model(
            [
                helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
                helper.make_node("BitwiseNot", ["whole"], ["not"]),
                node("Cast", ["not"], to=TensorProto.FLOAT),
            ]
        ),
        "BitwiseNot .*new in opset 18",
    ),
    (
        model(
            [node("GridSample", ["x5", "g"])],
            [reals("x5", np.ones((1, 1, 2, 2, 2))), reals("g", np.zeros((1, 1, 1, 1, 3)))],
            opset=20,
        ),
        "GridSample .*5 axes",
    ),
    (
        model(
            [
                helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E4M3FN),
                node("Cast", ["small"], to=TensorProto.FLOAT),
            ],
            opset=19,
            ir_version=9,
        ),
        "FLOAT8E4M3FN",
    ),
    (model([node("Relu", ["x"])], opset=99), "opset 99, but the installed onnx"),
]


@pytest.mark.parametrize(
    ("newer", "words"),
    REFUSED,
    ids=[words.split(" ")[0] + str(i) for i, (_, words) in enumerate(REFUSED)],
)
def test_what_opset_17_cannot_do_is_refused_by_name(newer: onnx.ModelProto, words: str) -> None:
    with pytest.raises(NotLowerableError, match=words):
        lower_onnx(newer)


def test_operator_changed_after_the_last_opset_known_here_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepcontrast_bmz.export.onnx_lower.KNOWN_OPSET", 18)
    with pytest.raises(NotLowerableError, match="changed in opset 19"):
        lower_onnx(SAME["resize some axes"])


def test_weights_in_a_second_file_are_refused() -> None:
    outside = model([node("Conv", ["x", "k"])], [reals("k", np.ones((4, 3, 2, 2)))])
    set_external_data(outside.graph.initializer[0], "weights.bin")
    with pytest.raises(NotLowerableError, match="second file"):
        lower_onnx(outside)


def test_paths_and_traces_are_stripped_and_values_kept() -> None:
    traced = model([node("ReduceMean", ["x", "a"])], [numbers("a", [1])], ir_version=10)
    trace = {"stack_trace": 'File "/home/somebody/network.py", line 3'}
    helper.set_model_props(traced, trace)
    for thing in (traced.graph, traced.graph.node[0], traced.graph.input[0]):
        helper.set_metadata_props(thing, trace)
        thing.doc_string = trace["stack_trace"]
    expected = run(traced)[0]
    strip_debug(traced)
    assert b"somebody" not in traced.SerializeToString()
    assert np.array_equal(run(traced)[0], expected)


def test_every_operator_that_lost_or_gained_something_has_a_rule() -> None:
    """An operator of opset 17 whose inputs changed later must be one that is rewritten."""
    from deepcontrast_bmz.export import onnx_lower

    latest = min(onnx.defs.onnx_opset_version(), onnx_lower.KNOWN_OPSET)
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    for name in sorted(names):
        try:
            old = onnx.defs.get_schema(name, OPSET_VERSION, "")
            new = onnx.defs.get_schema(name, latest, "")
        except onnx.defs.SchemaError:
            continue
        defaults = {
            key: helper.get_attribute_value(attribute.default_value)
            for key, attribute in old.attributes.items()
            if attribute.default_value.name
        }
        changed = any(
            key not in new.attributes
            or helper.get_attribute_value(new.attributes[key].default_value) != value
            for key, value in defaults.items()
        )
        lost = set(old.attributes) - set(new.attributes)
        if lost or changed or len(old.inputs) != len(new.inputs):
            assert name in onnx_lower._RULES, name  # pyright: ignore[reportPrivateUsage]
