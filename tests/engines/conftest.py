"""What tests of engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from djinn_fx.engines.bound import write_protection


@pytest.fixture(params=["told", "compared"])
def told(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the kernel tells of writes; every test that asks runs both ways."""
    if request.param == "told":
        if write_protection.table() is None:
            pytest.skip("this kernel does not tell of writes")
        yield True
        return
    with write_protection.switched_off():
        yield False
