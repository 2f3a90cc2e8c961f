"""What a reader of frames takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that hold before memory is reserved.

    Attributes:
        header_bytes: of a frame's JSON header.
        header_values: values in that header, or in a text among the payloads: what parsing costs goes by their number.
        text_bytes: of one text among the payloads, such as a graph.
        tensors: in one frame.
        payload_bytes: of all payloads of one frame together.
    """

    header_bytes: int = 8 * 2**20
    header_values: int = 2_000_000
    text_bytes: int = 64 * 2**20
    tensors: int = 65_536
    payload_bytes: int = 4 * 2**30


LIMITS = Limits()
