"""An ONNX graph of a few operators: a low-rank map stays two thin products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coreframe.artefact import TrainedAdapter
from coreframe.errors import MissingExtra
from coreframe.export.target import Floats, Map, Target, maps
from coreframe.storage import write_files

OPSET, IR_VERSION = 18, 9
SMALLEST = 1e-30  # a row of zeros is divided by it, and stays zeros


@dataclass(frozen=True, kw_only=True)
class Onnx(Target):
    """``adapter.onnx``, or ``query.onnx`` and ``document.onnx`` where the two move differently.

    Input ``embedding`` [batch, d_in] float32, output ``adapted`` [batch, d_out].
    """

    name: ClassVar[str] = "onnx"

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        files = {}
        for name, sides in _files(adapter).items():
            files[name] = _model(adapter, sides[0]).SerializeToString(deterministic=True)
        write_files(folder, files)

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        onnx = _onnx()
        from onnx.reference import ReferenceEvaluator

        def map_of(name: str) -> Map:
            model = onnx.load_model(folder / name)
            onnx.checker.check_model(model, full_check=True)
            session = ReferenceEvaluator(model)

            def apply(x: Floats) -> Floats:
                y: Floats = session.run(["adapted"], {"embedding": x})[0]
                return y

            return apply

        return {side: map_of(name) for name, sides in _files(adapter).items() for side in sides}

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        lines = ["import onnxruntime"]
        for name, sides in _files(adapter).items():
            lines.append(f'session = onnxruntime.InferenceSession("FOLDER/{name}")')
            for side in sides:
                x = {"query": "queries", "document": "documents"}[side]
                lines.append(f'{x} = session.run(["adapted"], {{"embedding": {x}}})[0]')
        return lines


def _files(adapter: TrainedAdapter) -> dict[str, tuple[str, ...]]:
    """Return the name of each file and the sides that it serves."""
    return {f"{name}.onnx": sides for name, sides in maps(adapter).items()}


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "onnx", "an export to ONNX") from None
    return onnx


def _model(adapter: TrainedAdapter, side: str) -> Any:
    onnx = _onnx()
    from onnx import helper, numpy_helper

    own = adapter.side(side)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        if value.dtype.kind == "f":
            value = value.astype(np.float32)
        constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(kind: str, *inputs: str, to: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [to], name=to, **attributes))
        return to

    last = "embedding"
    if own.form == "linear":
        last = node("MatMul", last, constant("W", own.arrays["W"]), to="product")
    elif own.form == "low_rank":
        thin = node("MatMul", last, constant("A", own.arrays["A"]), to="thin")
        scaled = (own.scaling * own.arrays["B"].astype(np.float64)).astype(np.float32)
        wide = node("MatMul", thin, constant("B", scaled), to="wide")
        last = node("Add", last, wide, to="moved")
    if "b" in own.arrays:
        last = node("Add", last, constant("b", own.arrays["b"]), to="shifted")
    if adapter.normalize:
        axes = constant("axes", np.array([1], np.int64))
        length = node("ReduceL2", last, axes, to="length", keepdims=1)
        smallest = constant("smallest", np.array(SMALLEST, np.float32))
        node("Div", last, node("Max", length, smallest, to="divisor"), to="adapted")
    else:
        node("Identity", last, to="adapted")

    def rows(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])

    width = own.matrix(adapter.dimensions)[0].shape[1]
    graph = helper.make_graph(
        nodes,
        "coreframe_adapter",
        [rows("embedding", adapter.dimensions)],
        [rows("adapted", width)],
        constants,
    )
    model = helper.make_model(
        graph,
        producer_name="coreframe",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(
        model,
        {
            "side": side,
            "similarity": adapter.similarity,
            "normalize": str(adapter.normalize).lower(),
            "base_model": adapter.base_model or "",
        },
    )
    return model
