"""The modules of the model that Dynamo is at work on, so that a pin to none of them is an error.

The only module that looks into Dynamo's frames. Where they are not as expected, nothing is known and nothing refused.
What comes after a graph break, or a part of a model that Dynamo takes up by itself, is not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch

from djinn_fx.passes.placing.pins import Pins
from djinn_fx.settings.table import Settings

#: In which of Dynamo's functions the frame that is compiled is at hand, and under which name its variables are.
_FILE, _FUNCTION, _VARIABLES = "convert_frame.py", "_compile", "locals"
#: Where Dynamo calls what ``torch.compile`` was given.
_CALLS = "eval_frame.py"
_TORCH = str(Path(torch.__file__).parent)


def check_pins(settings: Settings) -> None:
    """See to it that every pin is about a module of the model.

    Raises:
        SettingsError: one is about none, or two contradict each other.
    """
    if settings.pins:
        names = list(_known_modules())
        if names:
            Pins(settings.pins).check(names)


def _known_modules() -> Iterator[str]:
    """The paths of all modules that the function given to ``torch.compile`` can reach by its variables."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == _FUNCTION and frame.f_code.co_filename.endswith(_FILE)):
        frame = frame.f_back
    if frame is None or not _is_first(frame.f_back):
        return
    variables = frame.f_locals.get(_VARIABLES)
    values = list(variables.values()) if isinstance(variables, dict) else []
    given = [one for value in values if isinstance(value, tuple) for one in value]  # *args
    for value in (*values, *given):
        if isinstance(value, torch.nn.Module):
            yield from (name for name, _ in value.named_modules(remove_duplicate=False))


def _is_first(frame: FrameType | None) -> bool:
    """Whether nobody but torch stands between here and the call of what was compiled."""
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        if frame.f_code.co_filename.endswith(_CALLS) and not frame.f_code.co_name.startswith("__"):
            return True
        frame = frame.f_back
    return False
