"""``python -m djinn_fx.explain model.py``: find a user's model, capture it, and say what was decided and why.

The module can be called: ``djinn_fx.explain(model, *args)`` gives the report in Python.

* :mod:`finding` loads the file and finds the model and inputs in it, without the memory of its weights.
* :mod:`examine` captures it in each of its scenarios; :mod:`gather` makes of that the frozen :mod:`report`;
  :mod:`verdict` says what it comes to; :mod:`forms` writes both.
* :mod:`command` is the command line; :mod:`notebook` what is called in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from djinn_fx.explain.notebook import ShownReport


class _Explain(ModuleType):
    """This module: its name is also that of a function."""

    def __call__(self, model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ShownReport:
        """See :func:`djinn_fx.explain.notebook.explain`."""
        from djinn_fx.explain.notebook import explain

        return explain(model, *args, **kwargs)


sys.modules[__name__].__class__ = _Explain
