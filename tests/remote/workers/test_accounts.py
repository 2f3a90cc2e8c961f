"""What a worker counts of the frames that come and leave, without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.remote.wire.frame import encode, joined
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers.accounts import UNREADABLE, Accounts, kind_of

MISLEADING = '","schema":"djinn_fx.frame/1","tensors":['
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(['"kind":"other', MISLEADING, '{"kind":"call' + MISLEADING]))


@given(kind=st.sampled_from(["call", "full", "weights"]), fields=st.dictionaries(TEXTS, TEXTS, max_size=3), name=TEXTS)
def test_a_frames_kind_is_found_whatever_else_is_in_it(kind: str, fields: dict[str, Any], name: str) -> None:
    tensors = {name or "one": payload_of(torch.ones(3))}
    assert kind_of(joined(encode(kind, fields, tensors))) == kind


@given(st.binary(max_size=200))
def test_what_is_no_frame_is_counted_as_that(raw: bytes) -> None:
    assert kind_of(raw) == UNREADABLE


def test_bytes_are_counted_by_kind_and_both_ways() -> None:
    accounts = Accounts()
    call, state = joined(encode("call", {})), joined(encode("state", {}, {"a": payload_of(torch.ones(100))}))
    accounts.came([call, state, call])
    accounts.leave([np.zeros(7, dtype=np.uint8)])
    assert accounts.told() == {"took": {"call": 2 * call.nbytes, "state": state.nbytes}, "gave": {UNREADABLE: 7}}
    assert state.nbytes > 400
