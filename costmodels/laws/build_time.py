"""What building a region costs and what it saves: orders of magnitude from which "does it pay" is judged.

The figures are medians of this project's own benches on one machine (2 cores of a 2.8 GHz Xeon); a build that was
measured in this process replaces them (see ``dispatch/contests/pays.py``).
"""

from __future__ import annotations

from djinn_fx.settings.engines import INDUCTOR, ONNXRUNTIME, OPENVINO, PACKED, TENSORRT

#: Seconds to compile one more distinct region, and one more op in it (Inductor on a 2.8 GHz Xeon core, measured
#: by bench/compiling/compile_time.py; only their ratio to run time matters, and only by order of magnitude).
FIXED_S = 0.5
PER_OP_S = 0.015

#: Seconds of AOTAutograd and of our passes for one op of Dynamo's graph (12-layer Llama, 3.7 s for 900 ops).
PLAN_PER_OP_S = 0.004

#: Share of a region's eager run time that an engine saves. Inductor: 24-layer Llama on a CPU, steady 0.0865 s a call
#: against eager's 0.1050 s (bench/results/compile_time_llama24.json). TensorRT: never measured by us on a GPU, so
#: no better than Inductor's is assumed. Other engines are tried on real calls instead (``contests/contest.py``).
SAVED_SHARE = {INDUCTOR: 0.18, TENSORRT: 0.18}

#: Seconds to build one op: TensorRT builds a whole decoder layer in the time Inductor needs for a few ops; these others
#: only convert the region (under 0.15 s for 1,000 ops).
_CONVERTED_S = 0.00015
PER_OP_BY_ENGINE_S = {
    INDUCTOR: PER_OP_S,
    TENSORRT: 0.002,
    OPENVINO: _CONVERTED_S,
    ONNXRUNTIME: _CONVERTED_S,
    PACKED: _CONVERTED_S,
}
FIXED_BY_ENGINE_S = {INDUCTOR: FIXED_S, TENSORRT: 0.1, OPENVINO: 0.0, ONNXRUNTIME: 0.0, PACKED: 0.0}


def build_seconds(engine: str, ops: int) -> float:
    """Predicted seconds to build a region of so many ops."""
    return FIXED_BY_ENGINE_S.get(engine, FIXED_S) + PER_OP_BY_ENGINE_S.get(engine, PER_OP_S) * ops
