"""Asking something in a forked process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable


def in_fork(check: Callable[[], bool]) -> bool:
    """Whether something holds in a forked process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is what this is about
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
