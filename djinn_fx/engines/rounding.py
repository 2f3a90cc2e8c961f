"""Whether torch may round float32 to TF32."""

from __future__ import annotations

from typing import Any


def may_round(switch: Any) -> bool:
    """Whether torch may use TF32 where a backend's switch says so.

    Args:
        switch: ``torch.backends.cuda.matmul`` or ``torch.backends.cudnn``.
    """
    try:
        return bool(switch.allow_tf32)
    except RuntimeError:  # torch refuses to be asked so once ``fp32_precision`` was set
        return str(getattr(switch, "fp32_precision", "")) == "tf32"
