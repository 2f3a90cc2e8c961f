"""What must hold of the pools at any time, looked at from outside: for tests."""

from __future__ import annotations

from djinn_fx.sessions.pools.job import Way
from djinn_fx.sessions.pools.store import Store
from djinn_fx.sessions.pools.table import NOWHERE


def check(store: Store) -> None:
    """Look whether each place is free or one page's; linear in the pages.

    Raises:
        AssertionError: a page leaked, two share a place, or one left under a reader.
    """
    table = store.table
    targets: dict[Way, set[int]] = {way: set() for way in Way}
    for page, job in store.under_way.items():
        targets[job.way] |= {target for one, _, target in job.moves if one == page}
    pools = (
        (store.device, table.device, set[int]()),
        (store.host, table.host, targets[Way.TO_HOST]),
        (store.disk, table.disk, targets[Way.TO_DISK] | targets[Way.HOST_TO_DISK]),
    )
    for pool, column, promised in pools:
        taken = [slot for slot in column if slot != NOWHERE] + sorted(promised)
        if pool is None:
            assert not taken
            continue
        free = pool.free_slots()
        assert len(set(taken)) == len(taken), "two pages share a place"
        assert not free & set(taken), "a page is where nothing should be"
        assert len(free) + len(taken) == pool.pages, "a place leaked"
    assert 0 not in table.device, "the page of zeros was handed out"
    for page in range(len(table)):
        assert not table.readers[page] or store.on_device(page), "a page left under a reader"
        assert bool(table.moving[page]) == (page in store.under_way), "a page moves by itself"
