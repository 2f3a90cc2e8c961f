"""Directed acyclic graphs as numbers and edges."""

from __future__ import annotations

from collections.abc import Iterable


def in_turn(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers below ``count``, each behind all that have an edge to it.

    Those of a circle are missing, and those behind one.
    """
    users: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for source, user in edges:
        users[source].append(user)
        waits[user] += 1
    free = [place for place, waiting in enumerate(waits) if not waiting]
    for place in free:
        for user in users[place]:
            waits[user] -= 1
            if not waits[user]:
                free.append(user)
    return free
