"""One step: rooms for its new tokens, the model's call, and what its answers make of the turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from djinn_fx.sessions.caches.batch import Batch
from djinn_fx.sessions.caches.holding import Holding
from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.conversation import Conversation, Turn
from djinn_fx.sessions.pools.store import Store
from djinn_fx.sessions.steps.scheduling import bucket
from djinn_fx.sessions.steps.times import Shape


@dataclass(frozen=True)
class Step:
    """A step that is about to be made, or was.

    Attributes:
        number: counted from 0.
        sessions: ids, in the order of the batch.
        shape: of the batch.
        predicted_s: what it was thought to take; None for the first.
        seconds: what it took; 0 before.
    """

    number: int
    sessions: tuple[str, ...]
    shape: Shape
    predicted_s: float | None = None
    seconds: float = 0.0


@dataclass(eq=False)
class Planned:
    """A step with its sessions, whose pages are held."""

    step: Step
    members: list[Conversation]
    batch: Batch
    pages: list[int]
    encoder_ids: torch.Tensor | None


def make_room_in(store: Store, one: Conversation, new: int, encoded: int) -> bool:
    """Pages of its own for what a step writes; False where the device has too few, and what was taken stays taken."""
    holding = one.holding
    for pages, place in holding.written_by(new):
        owned = store.own(pages[place])
        if owned is None:
            return False
        pages[place] = owned
    if not holding.states and holding.layout.state_pages:
        made = store.allocate(holding.layout.state_pages)
        if made is None:
            return False
        holding.states = made
    for held, count in zip(holding.lists, holding.missing_for(new, encoded), strict=True):
        made = store.allocate(count)
        if made is None:
            return False
        held.pages += made
    return True


def batch_of(
    model: SessionModel, store: Store, members: Sequence[Conversation], new: int
) -> tuple[Batch, torch.Tensor | None]:
    """The tensors of a step, and an encoder's tokens where it is a first one."""
    holdings: list[Holding] = [one.holding for one in members]
    past = max(holding.cached for holding in holdings)
    ids = [one.tokens[one.holding.cached : one.holding.cached + new] for one in members]
    if model.compiled:
        ids += [ids[0]] * ((1 << (len(ids) - 1).bit_length()) - len(ids))
    encoder_ids = members[0].encoder_ids if model.traits.encodes and past == 0 else None
    if not model.exact:
        past = bucket(past)
    # The table may grow while the step runs, and its pages move: not those of this step.
    places = np.array(store.table.device, dtype=np.int32)
    made = Batch(torch.tensor(ids, device=model.device), holdings, places, past, joins=model.compiled)
    return made, encoder_ids if encoder_ids is None else encoder_ids.to(model.device)


def run(model: SessionModel, store: Store, planned: Planned) -> tuple[torch.Tensor, float]:
    """Call the model; needs no lock, since the step's pages are held.

    Returns:
        Logits of each session's last token, on the CPU, and the seconds it took.
    """
    begun = time.perf_counter()
    logits = model.run(planned.batch, store.device.memory, planned.encoder_ids).cpu()
    return logits, time.perf_counter() - begun


def next_token(logits: torch.Tensor, turn: Turn) -> tuple[int, float]:
    """The token that follows, and by how much the first choice leads the second.

    Args:
        logits: of one session, shape (vocabulary,).
        turn: says how it is chosen.
    """
    best = torch.topk(logits, min(2, logits.shape[0]))
    gap = float(best.values[0] - best.values[-1])
    if turn.temperature <= 0 or turn.generator is None:
        return int(best.indices[0]), gap
    chances = torch.softmax(logits / turn.temperature, dim=-1)
    return int(torch.multinomial(chances, 1, generator=turn.generator)), gap
