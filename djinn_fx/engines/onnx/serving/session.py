"""What sessions of ONNX models have in common: results from a model's outputs, and which weights get packed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.base import Arguments
from djinn_fx.engines.bound.feeding import Feeder, plain
from djinn_fx.engines.bound.signature import Given, Signature
from djinn_fx.engines.ranges.program import Checked
from djinn_fx.pool import procfs

#: Operators for which runtimes keep a copy of a constant operand in an order of their own.
_PACKING = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "FusedMatMul", "FusedConv", "FusedGemm"})
#: Operators through which a constant reaches another one: folded when a session is opened.
_PASSING = frozenset({"Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand"})
#: Bytes packed from which on freed memory is given back.
_WORTH_GIVING_BACK = 32 << 20


class Wiring:
    """How a session's model is fed and read, with some weights in it as constants.

    Args:
        signature: of the model.
        weights: by place: what is constant.

    Attributes:
        named: the weights by their names in the model.
        fed: the inputs that are left.
        feeder, finisher: make its inputs of a call's arguments, and the region's results of its outputs.
        checked: what must hold of a call's whole numbers.
    """

    def __init__(self, signature: Signature, weights: Mapping[int, torch.Tensor]) -> None:
        self.named = {one.name: plain(weights[one.place]) for one in signature.fed if one.place in weights}
        self.fed = [one for one in signature.fed if one.place not in weights]
        self.feeder, self.finisher = Feeder(self.fed), Finisher(signature)
        self.checked = Checked(signature.program, signature.symbols, weights)


class Finisher:
    """Makes a region's results of its model's outputs.

    Args:
        signature: of the model.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._writes = bool(signature.mutated)
        self._whole = {
            place: one.output
            for place, one in enumerate(signature.results)
            if isinstance(one, Given) and one.sizes is None
        }
        whole = list(self._whole.values())
        self._order = whole if len(whole) == len(signature.results) else None
        self._as_they_are = self._order == list(range(signature.outputs))

    def offers(self, args: Sequence[Any]) -> dict[int, torch.Tensor]:
        """By output, memory that a call offers for a result which is that output as it is (:class:`Arguments`)."""
        if not isinstance(args, Arguments):
            return {}
        return {output: args.into[place] for place, output in self._whole.items() if place in args.into}

    def check(self, outputs: Sequence[Any]) -> None:
        """Whether the outputs are what torch would compute.

        Raises:
            Declined: they are not.
        """
        self._signature.check(outputs)

    def results(self, outputs: list[torch.Tensor], args: Sequence[Any], written: bool = False) -> list[Any]:
        """Write what the region writes, unless that was done already, and give the results in order.

        Raises:
            Declined: the outputs are not what torch would compute; nothing was written.
        """
        self._signature.check(outputs)
        if self._as_they_are:
            return outputs
        if self._writes and not written:
            with torch.no_grad():
                self._signature.write_back(outputs, args)
        if self._order is not None:
            return [outputs[place] for place in self._order]
        return self._signature.assemble(outputs, args)


def shaped(offer: torch.Tensor, sizes: Sequence[int] | None, dtype: torch.dtype | None) -> torch.Tensor | None:
    """Offered memory as an output of this shape and type, one element after the other; None if it is not for that.

    Args:
        offer: see :class:`Arguments`.
        sizes: of the output; None: not known before the call.
        dtype: of the output; None: torch has none like it.
    """
    if sizes is None or offer.dtype is not dtype or not math.prod(sizes):
        return None
    if math.prod(sizes) * offer.element_size() != offer.untyped_storage().nbytes():
        return None
    strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    return torch.as_strided(offer, tuple(sizes), tuple(strides), 0)


def packed_bytes(graph: Any, weights: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the weights that a runtime packs, and so holds a second time.

    Counted, not measured: every weight of two or more dimensions that a product or a convolution reads, itself or by
    way of an operator that only moves elements. Tables that are looked up are read where they are.

    Args:
        graph: an ONNX ``GraphProto``.
        weights: by their names in it.
    """
    source = {name: name for name in weights}
    packed: set[str] = set()
    for node in graph.node:
        read = [source[name] for name in node.input if name in source]
        if node.op_type in _PASSING and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type in _PACKING:
            packed.update(read)
    return sum(weights[name].nbytes for name in packed if weights[name].dim() > 1)


def give_back(packed: int) -> None:
    """Give freed memory back to the system after a session was opened: opening takes up to twice what it keeps.

    Only glibc keeps it otherwise, and only large amounts are worth the milliseconds.

    Args:
        packed: bytes of weights that were packed.
    """
    if packed >= _WORTH_GIVING_BACK:
        procfs.give_back()
