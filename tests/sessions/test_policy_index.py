"""The order of contexts against a plain sort, through any sequence of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.sessions.policy.index import Ordered
from djinn_fx.sessions.policy.state import Context

CONTEXTS = [Context(str(number)) for number in range(6)]
CHANGES = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 9))), max_size=300)


@given(CHANGES, st.integers(0, 6))
def test_it_is_a_sort_by_key(changes: list[tuple[int, int | None]], seen: int) -> None:
    order, plain = Ordered(), dict[str, int]()
    for number, key in changes:
        context = CONTEXTS[number]
        if key is None:
            order.drop(context)
            plain.pop(context.key, None)
        else:
            order.set(context, key)
            plain[context.key] = key
        walk = order.walk()
        for _, _ in zip(range(seen), walk, strict=False):
            pass
        walk.close()  # type: ignore[attr-defined]
    found = [(key, context.key) for key, context in order.walk()]
    assert sorted(found) == sorted((key, name) for name, key in plain.items())
    assert [key for key, _ in found] == sorted(plain.values())
    assert len(order) == len(plain)
    first = order.pop()
    assert (first is None) == (not plain)


def test_dropping_while_walking() -> None:
    order = Ordered()
    for number, context in enumerate(CONTEXTS):
        order.set(context, number)
    for _, context in order.walk():
        order.drop(context)
    assert len(order) == 0
    assert order.first() is None
