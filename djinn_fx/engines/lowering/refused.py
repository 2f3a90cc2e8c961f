"""What a converter raises for what it cannot do exactly."""

from __future__ import annotations


class Refused(Exception):
    """This op, with these arguments, has no equal in ONNX or in the runtime; the text says why, in plain words.

    Attributes:
        node: the region's node it is about; "" for none.
    """

    node = ""


class RefusedWhole(Refused):
    """Nor has it one by way of its parts, which are something else for some numbers."""
