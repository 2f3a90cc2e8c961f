"""The modules of the model that Dynamo is at work on, so that a pin to none of them is an error.

The only module that looks into Dynamo's frames. Where they are not as expected, nothing is known and nothing refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import torch

from djinn_fx.passes.placing.pins import Pins
from djinn_fx.settings.table import Settings

#: In which of Dynamo's functions the frame that is compiled is at hand, and under which name its variables are.
_FILE, _FUNCTION, _VARIABLES = "convert_frame.py", "_compile", "locals"


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
    """The paths of all modules that the function that is compiled can reach by its variables."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == _FUNCTION and code.co_filename.endswith(_FILE):
            variables = frame.f_locals.get(_VARIABLES)
            for value in variables.values() if isinstance(variables, dict) else ():
                if isinstance(value, torch.nn.Module):
                    yield from (name for name, _ in value.named_modules(remove_duplicate=False))
            return
        frame = frame.f_back
