"""Every case of every Transformers family: which ops have no price. ``python -m tests.costmodels.all_families``.

Takes about 2 s a case; ``--from N`` starts at the N-th case, ``--training`` captures forward and backward.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from djinn_fx.costmodels.work.work_of import work_graph
from tests import families
from tests.capture import capture


def main() -> int:
    """Print what was found. Returns 1 if an op is unpriced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="start", type=int, default=0)
    parser.add_argument("--training", action="store_true")
    arguments = parser.parse_args()
    problems: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    cases = families.all_cases()[arguments.start :]
    for case in cases:
        module, args, kwargs = case.make()
        for srg in capture(module, args, kwargs, training=arguments.training, loss_of=families.loss_of):
            for work in work_graph(srg):
                kinds[work.kind] += 1
                if work.problem is not None:
                    problems[work.op, work.problem] += 1
    print(f"{len(cases)} cases, {sum(kinds.values()):,} calls: {dict(kinds.most_common())}")
    for (op, why), count in problems.most_common():
        print(f"{count} x {op}: {why}")
    print("nothing unpriced" if not problems else f"{sum(problems.values())} calls unpriced")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
