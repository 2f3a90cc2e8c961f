"""Where a module is in the user's model, from how Dynamo writes it down."""

from __future__ import annotations

import re

#: The variable that holds the model: ``L['self']``, ``G['net']``, or ``L['args'][0]`` where its forward has a wrapper
#: that takes ``*args``, as decorators of Transformers do.
_ROOT = re.compile(r"^[LG]\[['\"](?:args['\"]\]\[\d+\]|\w+['\"]\])\.?")


def within_model(source: str) -> str:
    """What follows the variable that holds the model: ``L['self'].layers[0]`` is ``layers[0]``."""
    return _ROOT.sub("", source)
