"""The fewest devices that keep a promise of latency."""

from __future__ import annotations

from djinn_fx.deploy.planning import Planned, Wish, grown, make_plan
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.errors import InfeasibleError
from djinn_fx.solvers.deployment.problem import Cluster


def fewest_for(workload: Workload, cluster: Cluster, wish: Wish, p99: float) -> Planned:
    """The plan with the fewest of a cluster's devices whose P99 is not above a bound.

    Devices are halved between what was too few and what sufficed; a P99 that fewer devices keep and more do not is so
    not seen.

    Args:
        workload: what is served.
        cluster: all devices that there are.
        wish: how to plan.
        p99: seconds.

    Raises:
        InfeasibleError: all of them do not suffice; the message says what they reach.
    """
    of = grown(cluster)
    best = make_plan(workload, cluster, wish)
    if best.measures.p99 > p99:
        raise InfeasibleError(
            f"{cluster.size} devices reach a P99 of {best.measures.p99:.2f}s, and {p99:g}s is wanted: allow more of "
            "them, or more time"
        )
    low, high = 0, cluster.size
    while high - low > 1:
        middle = (low + high) // 2
        try:
            found = make_plan(workload, of(middle), wish)
        except InfeasibleError:
            low = middle
            continue
        if found.measures.p99 <= p99:
            best, high = found, middle
        else:
            low = middle
    return best
