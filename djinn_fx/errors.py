"""Every error djinn-fx raises on purpose.

A message says what happened, where (graph node and the user's file:line where known), and what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class DjinnError(Exception):
    """Base of all errors of djinn-fx.

    Attributes:
        exit_code: what a command that meets it ends with.
    """

    exit_code = 1


class SettingsError(DjinnError):
    """An option, environment variable or configuration file holds something djinn-fx does not accept."""

    exit_code = 2


class LoweringError(DjinnError):
    """A graph holds something that has no place in the SRG."""


class PassError(DjinnError):
    """A pass failed; the message names the pass, the node and the passes that ran before."""


class VerifyError(DjinnError):
    """The SRG breaks one of its invariants; the message names the invariant and the node."""


class EngineError(DjinnError):
    """An engine could not compile, load or run a region."""


class DeviceLostError(EngineError):
    """A device that a region was to run on is there no more; the next call is planned without it."""


class HalfWrittenError(EngineError):
    """An engine failed after it may have written into tensors of the caller: eager cannot be asked any more."""


class StoreError(DjinnError):
    """The cache directory cannot be used as asked (a damaged entry is never an error: it is rebuilt)."""

    exit_code = 2


class ModelFileError(DjinnError):
    """A model file given to a command holds no model, or what is in it is ambiguous, damaged or does not fit."""

    exit_code = 3


class ModelFailedError(ModelFileError):
    """The code of a model file raises, or the model cannot be captured."""

    exit_code = 4


class InfeasibleError(SettingsError):
    """A budget or a device is too small for what is asked; the message names what binds and what would do."""

    exit_code = 5


class OffloadError(DjinnError):
    """A weight that is read from a file for each use was to be written, trained, copied or moved."""


class SolverError(DjinnError):
    """A problem given to a solver is none, or a solution breaks one of the problem's rules; the message names which."""


class UnitError(DjinnError):
    """A quantity such as ``"80GB"`` cannot be read."""


#: Where in a runtime's own source something went wrong, which tells a user nothing.
_PLACE = re.compile(r"(Exception from \S+|Check '.*' failed at \S+):\d+:$")


def useful_line(error: BaseException) -> str:
    """An error in one line: its kind, and the first line of its message that says something.

    A line that ends with a colon only announces the next one, so that comes with it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not _PLACE.match(line)] or lines
    count = next((place for place, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    text = " ".join(lines[:count])
    return f"{type(error).__name__}: {text or 'no message'}"


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "", *, cutoff: float = 0.6) -> str:
    """What an error about an unknown word ends with: the nearest word that is known, or ``otherwise``."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else otherwise
