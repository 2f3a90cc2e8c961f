"""A pool for a test, and a mark on every process it starts."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from djinn_fx.pool.supervisor import BuildPool
from tests.pool.support import alive, pool_of
from tests.waiting import until


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """In the environment of all processes the test starts; none of them may outlive it."""
    value = f"pool-test-{uuid.uuid4().hex}"
    monkeypatch.setenv("POOL_TEST_MARK", value)
    files = set(os.listdir("/proc/self/fd"))
    yield value
    assert until(lambda: not alive(value)), f"still alive: {alive(value)}"
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= len(files)), "file descriptors left open"


@pytest.fixture
def pool(mark: str) -> Iterator[BuildPool]:
    """Two children at a time; closed afterwards."""
    pool = pool_of()
    yield pool
    pool.close()
