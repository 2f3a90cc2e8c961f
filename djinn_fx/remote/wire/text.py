"""JSON from elsewhere: bounded before it is parsed, and one error for whatever is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.limits import LIMITS, Limits
from djinn_fx.remote.wire.payload import Payload, payload_of


def written(value: Any, what: str) -> bytes:
    """A JSON value as text.

    Args:
        value: any.
        what: it is, for the error.

    Raises:
        EngineError: it is none.
    """
    try:
        return _ENCODER.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EngineError(f"{what} cannot be written as JSON ({error})") from error


def parsed(raw: bytes | memoryview, what: str, max_bytes: int, max_values: int) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        EngineError: it is larger than allowed, not JSON, or no object.
    """
    if len(raw) > max_bytes:
        raise EngineError(f"{what} of {len(raw)} bytes; at most {max_bytes} are allowed")
    text = bytes(raw)
    values = values_in(text)
    if values > max_values:
        raise EngineError(f"{what} of {values} values; at most {max_values} are allowed")
    try:
        whole = text.decode().strip(_SPACES)
        found, end = _DECODER.raw_decode(whole)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{what} is not JSON ({str(error)[:120]})") from error
    if end != len(whole):
        raise EngineError(f"{what} is not JSON alone")
    if not isinstance(found, dict):
        raise EngineError(f"{what} is not a JSON object")
    return found


def values_in(text: bytes) -> int:
    """At least as many values as there are in a JSON text, counted without parsing."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


_SPACES = " \t\n\r"
# Made once: json.dumps and json.loads make theirs anew for each call with options.
_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_number)


def text_payload(text: bytes) -> Payload:
    """A text as a tensor of bytes, to travel beside others."""
    return payload_of(torch.from_numpy(np.frombuffer(bytearray(text), dtype=np.uint8)))


def text_in(tensor: torch.Tensor, what: str, limits: Limits = LIMITS) -> dict[str, Any]:
    """The JSON object in a tensor of bytes.

    Raises:
        EngineError: it is none, or larger than ``limits`` allow.
    """
    if tensor.dtype is not torch.uint8 or tensor.dim() != 1:
        raise EngineError(f"{what} is no text")
    return parsed(tensor.numpy().data, what, limits.text_bytes, limits.header_values)
