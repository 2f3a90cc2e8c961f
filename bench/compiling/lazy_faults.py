"""A builder that never builds: every request is met by a fault, chosen at random. Runs in the pool's child."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from bench.compiling import faulty

WORKERS = {"inductor-region": "bench.compiling.lazy_faults:build"}
#: Crashes, hangs, kills and lies on the wire; each ends the child or its build, none gives an artefact.
FAULTS = tuple(sorted((faulty.DEADLY | faulty.ENDLESS | {"raise"}) & set(faulty.FAULTS)))


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Do one of the faults."""
    return faulty.build({"fault": random.SystemRandom().choice(FAULTS)}, ())
