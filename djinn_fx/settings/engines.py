"""The engines by name, and what each is like: others decide by that, never by a name. Imports no engine, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Runs a region's own ops: always there, always right, builds nothing.
EAGER = "eager"
INDUCTOR = "inductor"
INDUCTOR_PACKED = "inductor-packed"
ONNXRUNTIME = "onnxruntime"
OPENVINO = "openvino"
PACKED = "packed"
TENSORRT = "tensorrt"
#: What takes the regions that no engine which was asked for serves.
STANDBY = INDUCTOR


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What an engine is like.

    Attributes:
        takes_whole_graphs: does best with a graph in one piece.
        binds_weights: keeps copies of weights in what it loads, so an artefact has a session for each set of weights.
        shares_copies: graphs over the same weights hold one copy of them together.
        keyed_by_request: artefacts are keyed by what it makes of a region, not by the region's structure. Each says
            itself which sizes it serves, and wants the region's own ops beside it.
        chooses_strides: lays its results out as it likes.
        generates_code: a build runs a compiler, for seconds.
        reads_onnx: a runtime for models in ONNX.
        needs_gpu: runs on CUDA devices alone.
        rounds: rounds what the setting ``precision`` allows to be rounded.
        runs_by: the parts of its fingerprint that what it built depends on when it runs; empty: all.
    """

    takes_whole_graphs: bool = False
    binds_weights: bool = False
    shares_copies: bool = False
    keyed_by_request: bool = False
    chooses_strides: bool = False
    generates_code: bool = False
    reads_onnx: bool = False
    needs_gpu: bool = False
    rounds: bool = False
    runs_by: tuple[str, ...] = ()


#: In the order in which engines are tried that compete for a graph.
TRAITS: Mapping[str, Traits] = MappingProxyType(
    {
        OPENVINO: Traits(takes_whole_graphs=True, binds_weights=True, reads_onnx=True, rounds=True),
        ONNXRUNTIME: Traits(takes_whole_graphs=True, binds_weights=True, reads_onnx=True),
        PACKED: Traits(takes_whole_graphs=True, binds_weights=True, shares_copies=True),
        INDUCTOR: Traits(chooses_strides=True, generates_code=True, runs_by=("torch", "cpu")),
        INDUCTOR_PACKED: Traits(binds_weights=True, chooses_strides=True, generates_code=True),
        TENSORRT: Traits(keyed_by_request=True, needs_gpu=True),
        EAGER: Traits(),
    }
)


def traits_of(engine: str) -> Traits:
    """What an engine is like; one that nobody knows is like no other."""
    return TRAITS.get(engine, Traits())


def may_round(engine: str, precision: str) -> str:
    """What an engine may round where the setting ``precision`` is this: the same, or nothing (``"exact"``)."""
    return precision if traits_of(engine).rounds else "exact"


#: Those that keep copies of weights and do best with the whole graph.
WHOLE = tuple(name for name, traits in TRAITS.items() if traits.takes_whole_graphs)
#: Those that keep copies of weights.
BOUND = tuple(name for name, traits in TRAITS.items() if traits.binds_weights)
