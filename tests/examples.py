"""How many examples a property is tried on, and that they are the same in every run, however slow the machine."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

#: ``make exam`` tries many times as many.
TIMES = int(os.environ.get("EXAMPLES_TIMES", "1"))


def examples(count: int) -> settings:
    """So many of them, with no limit of time for each."""
    return settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=count * TIMES,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
