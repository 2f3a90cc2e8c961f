"""Graphs that are drawn and edited at random: all that canonical forms have, without the time that tracing takes."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.srg.form.rebuild import SizeHint

#: And so most weights; each takes 600 bytes and a header.
MOST_INPUTS = 4
TARGETS = ("aten.relu.default", "aten.mm.default", "aten.view.default", "aten.add.Tensor", "prims.cond")


@dataclass(eq=False)
class Value:
    """An input or an op; ``target`` is empty for an input, ``weight`` the seed of what goes into it."""

    target: str
    reads: list[Value]
    literal: int
    shape: list[int]
    weight: int | None = None
    shares: int | None = None


@dataclass
class Draft:
    """A graph in the making."""

    inputs: list[Value] = field(default_factory=list)
    ops: list[Value] = field(default_factory=list)
    returned: list[Value] = field(default_factory=list)
    device: int = 0

    def values(self) -> list[Value]:
        return [*self.inputs, *self.ops]

    def finished(self) -> tuple[GraphForm, dict[str, Payload]]:
        """The graph, and its weights by digest."""
        number = {id(value): place for place, value in enumerate(self.values())}
        storages: dict[int, int] = {}
        inputs = []
        for place, value in enumerate(self.inputs):
            memory = place if value.shares is None else value.shares
            inputs.append([described(value), [storages.setdefault(memory, len(storages))]])
        form = {
            "inputs": inputs,
            "ops": [[value.target, *called(value, number), described(value)] for value in self.ops],
            "outputs": [number[id(value)] for value in self.returned],
            "symbols": [["s", "2", "int_oo"]] * (self.device % 2),
        }
        weights = {place: weight(value.weight) for place, value in enumerate(self.inputs) if value.weight is not None}
        hints = [SizeHint(value=4, positive=True)] * (self.device % 2)
        graph = graph_form(form, weights, hints, {"cuda#0": f"cuda:{self.device}"})
        return graph, {one.digest: one for one in weights.values()}


def weight(seed: int) -> Payload:
    """A few numbers; seeds that are near make equal weights now and then."""
    return payload_of(torch.full((30, 5), float(seed // 2)))


def described(value: Value) -> list[Any]:
    return ["float32", [*value.shape], [value.shape[-1], 1], [0], "cpu"]


def called(value: Value, number: dict[int, int]) -> tuple[list[Any], list[Any]]:
    """Arguments and keywords, with a body that numbers its own values, and keywords that look like edges."""
    args: list[Any] = ["list", *(["%", number[id(one)]] for one in value.reads), value.literal]
    if value.target == "prims.cond":
        body = ["aten.add.Tensor", ["list", ["%", 0], ["%", value.literal]], ["dict"], ["NoneType", "None"]]
        args.append(["graph", {"inputs": [[["NoneType", "None"], []]], "ops": [body], "outputs": ["list", ["%", 0]]}])
    first = [["%", ["list", ["%", number[id(value.reads[0])]]]]] if value.reads else []
    return args, ["dict", *first, ["size", ["slice", None, value.shape[0], None]]]


def drawn(rng: random.Random, ops: int) -> Draft:
    """Any graph of about so many ops."""
    made = Draft()
    for _ in range(rng.randint(1, 4)):
        made.inputs.append(an_input(rng))
    for _ in range(ops):
        made.ops.append(an_op(rng, made.values()))
    made.returned = rng.sample(made.values(), k=min(2, len(made.values())))
    return made


def an_input(rng: random.Random) -> Value:
    return Value("", [], 0, [rng.randint(1, 3), 5], weight=rng.choice([None, rng.randint(0, 40)]))


def an_op(rng: random.Random, before: list[Value]) -> Value:
    reads = rng.choices(before, k=rng.randint(0, 3))
    return Value(rng.choice(TARGETS), reads, rng.randint(0, 3), [rng.randint(1, 3), 5])


def edited(draft: Draft, rng: random.Random) -> Draft:
    """The graph after a few edits of any kind."""
    made = copy.deepcopy(draft)
    for _ in range(rng.randint(1, 3)):
        rng.choice(EDITS)(made, rng)
    return made


def add_op(draft: Draft, rng: random.Random) -> None:
    place = rng.randint(0, len(draft.ops))
    op = an_op(rng, [*draft.inputs, *draft.ops[:place]])
    draft.ops.insert(place, op)
    if place + 1 < len(draft.ops) and rng.random() < 0.7:
        user = draft.ops[rng.randrange(place + 1, len(draft.ops))]
        user.reads = [op, *user.reads[1:]]


def remove_op(draft: Draft, rng: random.Random) -> None:
    if draft.ops:
        op = draft.ops.pop(rng.randrange(len(draft.ops)))
        for other in draft.ops:
            other.reads = [draft.inputs[0] if one is op else one for one in other.reads]
        draft.returned = [draft.inputs[0] if one is op else one for one in draft.returned]


def change_op(draft: Draft, rng: random.Random) -> None:
    if draft.ops:
        op = rng.choice(draft.ops)
        op.target, op.literal = rng.choice(TARGETS), rng.randint(0, 3)


def change_shapes(draft: Draft, rng: random.Random) -> None:
    old, new = rng.randint(1, 3), rng.randint(1, 9)
    for value in draft.values():
        if value.shape[0] == old:
            value.shape = [new, 5]


def change_weight(draft: Draft, rng: random.Random) -> None:
    rng.choice(draft.inputs).weight = rng.choice([None, rng.randint(0, 40)])


def add_input(draft: Draft, rng: random.Random) -> None:
    if len(draft.inputs) == MOST_INPUTS:
        return
    one = an_input(rng)
    draft.inputs.insert(rng.randint(0, len(draft.inputs)), one)
    if draft.ops:
        rng.choice(draft.ops).reads.append(one)


def remove_input(draft: Draft, rng: random.Random) -> None:
    if len(draft.inputs) > 1:
        gone = draft.inputs.pop(rng.randrange(len(draft.inputs)))
        for value in draft.ops:
            value.reads = [one for one in value.reads if one is not gone]
        draft.returned = [one for one in draft.returned if one is not gone]


def share_memory(draft: Draft, rng: random.Random) -> None:
    rng.choice(draft.inputs).shares = rng.choice([None, 0, 1])


def change_outputs(draft: Draft, rng: random.Random) -> None:
    draft.returned = rng.sample(draft.values(), k=rng.randint(0, len(draft.values())))


def change_device(draft: Draft, rng: random.Random) -> None:
    draft.device = rng.randint(0, 3)


EDITS = (
    add_op, add_op, remove_op, change_op, change_shapes, change_weight, change_weight, add_input, remove_input,
    share_memory, change_outputs, change_device,
)  # fmt: skip
