"""The Semantically Rich Graph: a typed view over one torch.fx.GraphModule."""

from __future__ import annotations

from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.srg.record import GraphKind, Modality, OpRecord, Phase, Residency, TensorMeta

__all__ = [
    "SRG",
    "GraphKind",
    "Modality",
    "OpRecord",
    "Phase",
    "Plan",
    "Region",
    "Residency",
    "TensorMeta",
    "lower",
]
