"""What calls really took corrects the model: one factor for each engine and kind of work.

Let a region's predicted time be ``p`` and its measured time ``t``, and let kind k have the share ``w_k`` of the
region. The corrections ``c`` are kept as logarithms; ``r = log(t / p) - sum_k w_k c_k`` is what they leave
unexplained, and each moves by ``RATE * r * w_k / sum_j w_j**2``: normalised least mean squares (Haykin, Adaptive Filter
Theory, chapter 7), which forgets old measurements exponentially. A correction counts once ``ENOUGH`` measurements
stand behind it. How good the uncorrected model is, is kept beside it as the exponentially weighted mean of
``min(p, t) / max(p, t)`` over regions of which the kind is a large part: when that falls below ``ACCURACY_BOUND`` the
model has drifted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from djinn_fx.costmodels.estimate import LEARNED, UNPRICED, CostModel, Estimate
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import new_lock

#: Share of what is unexplained by which a measurement moves the corrections.
RATE = 0.25
#: Measurements behind a correction, each weighed by the kind's share of its region, before it is applied.
ENOUGH = 2.0
#: No correction goes beyond this factor to either side: what is further off is no matter of calibration.
LARGEST = 8.0
#: Accuracy below which a calibrated model is reported to have drifted.
ACCURACY_BOUND = 0.85
#: Kinds with less of a region than this are not judged by how well the region was predicted.
_LARGE_PART = 0.25
#: Half of an 80 % interval of a normal distribution, in standard deviations.
_HALF_80 = 1.2816


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What was learned of one kind of work on one engine.

    Attributes:
        log_ratio: natural logarithm of measured by predicted time.
        weight: measurements behind it, each weighed by the kind's share.
        accuracy: mean of ``min(p, t) / max(p, t)`` of the uncorrected prediction, later ones weighing more; 1 is
            perfect, and what a kind has that was never a large part.
        judged: measurements behind the accuracy.
        variance: weighted mean square of what the corrections left unexplained, in logarithms.
    """

    log_ratio: float = 0.0
    weight: float = 0.0
    accuracy: float = 1.0
    judged: int = 0
    variance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The accuracy of a model on a kind of work fell below the bound."""

    engine: str
    kind: str
    accuracy: float

    def __str__(self) -> str:
        return f"cost model accuracy fell to {self.accuracy:.2f} on {self.kind} ({self.engine}): run `djinn calibrate`"


def shares(graph: WorkGraph, device: Device) -> dict[str, float]:
    """Which part of a graph's time each kind of work has, by datasheet; they add up to 1 unless there is no work."""
    seconds: dict[str, float] = {}
    bandwidth, launch = device.bandwidth_bytes_s, device.launch_overhead_s
    for work in graph.ops:
        if not work.costs_nothing:
            alone = max(work.flops / device.peak(work.dtype), work.nbytes / bandwidth) + launch
            seconds[work.kind] = seconds.get(work.kind, 0.0) + alone
    whole = sum(seconds.values())
    return {kind: part / whole for kind, part in seconds.items()} if whole else {}


class Learned:
    """What was learned about one model. May be used from several threads."""

    def __init__(self, corrections: Mapping[tuple[str, str], Correction] | None = None) -> None:
        self._corrections = dict(corrections or {})
        self._lock = new_lock()

    def observe(self, engine: str, parts: Mapping[str, float], predicted_s: float, measured_s: float) -> None:
        """A region took so long.

        Args:
            engine: that ran it.
            parts: of it, see :func:`shares`.
            predicted_s: by the model without corrections.
            measured_s: median of its calls.
        """
        if not (predicted_s > 0 and measured_s > 0 and math.isfinite(predicted_s) and math.isfinite(measured_s)):
            return
        ratio = math.log(measured_s / predicted_s)
        accuracy = math.exp(-abs(ratio))
        with self._lock:
            known = {kind: self._corrections.get((engine, kind), Correction()) for kind in parts}
            left = ratio - sum(parts[kind] * one.log_ratio for kind, one in known.items())
            square = sum(share * share for share in parts.values())
            for kind, one in known.items():
                self._corrections[engine, kind] = _moved(one, parts[kind], left, square, accuracy)

    def correction(self, engine: str, kind: str) -> Correction:
        """What was learned of a kind of work on an engine."""
        return self._corrections.get((engine, kind), Correction())

    def adjust(self, estimate: Estimate, engine: str, parts: Mapping[str, float]) -> Estimate:
        """An estimate by the model, corrected as far as enough is known."""
        known = [(share, self.correction(engine, kind)) for kind, share in parts.items()]
        known = [(share, one) for share, one in known if one.weight >= ENOUGH]
        if not known or estimate.provenance == UNPRICED:
            return estimate
        factor = math.exp(sum(share * one.log_ratio for share, one in known))
        spread = math.exp(_HALF_80 * math.sqrt(sum(share * one.variance for share, one in known)))
        time_s = estimate.time_s * factor
        return Estimate(
            time_s=time_s,
            low_s=min(estimate.low_s * factor, time_s / spread),
            high_s=max(estimate.high_s * factor, time_s * spread),
            provenance=LEARNED,
        )

    def drifts(self) -> tuple[Drift, ...]:
        """Where the uncorrected model is worse than the bound, the worst first."""
        with self._lock:
            found = [
                Drift(engine=engine, kind=kind, accuracy=one.accuracy)
                for (engine, kind), one in self._corrections.items()
                if one.judged >= ENOUGH and one.accuracy < ACCURACY_BOUND
            ]
        return tuple(sorted(found, key=lambda drift: (drift.accuracy, drift.engine, drift.kind)))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data; inverse of :meth:`from_json`."""
        with self._lock:
            return [
                {"engine": engine, "kind": kind, **asdict(one)}
                for (engine, kind), one in sorted(self._corrections.items())
            ]

    @classmethod
    def from_json(cls, data: Any) -> Learned:
        """What :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: not such data.
        """
        found = {}
        for row in data:
            numbers = {name: float(row[name]) for name in ("log_ratio", "weight", "accuracy", "variance")}
            if not all(map(math.isfinite, numbers.values())):
                raise ValueError("a correction is no number")
            found[str(row["engine"]), str(row["kind"])] = Correction(**numbers, judged=int(row["judged"]))
        return cls(found)


def _moved(one: Correction, share: float, left: float, square: float, accuracy: float) -> Correction:
    """A correction after one more measurement of a region of which the kind has this share."""
    # The first measurements count in full, so that the start (no correction) does not linger.
    rate = share * max(RATE, 1.0 / (1.0 + one.weight))
    bound = math.log(LARGEST)
    judging = share >= _LARGE_PART
    return Correction(
        log_ratio=min(bound, max(-bound, one.log_ratio + rate * left / square)),
        weight=one.weight + share,
        accuracy=one.accuracy + judging * max(RATE, 1.0 / (1 + one.judged)) * (accuracy - one.accuracy),
        judged=one.judged + judging,
        # What the first measurement left unexplained is what there was to learn, not how much times scatter.
        variance=one.variance + (rate * (left * left - one.variance) if one.weight >= 1 else 0.0),
    )


class LearnedModel:
    """A cost model with what was learned about it. A ``CostModel``.

    Args:
        model: the model.
        learned: about it.
    """

    def __init__(self, model: CostModel, learned: Learned) -> None:
        self.base, self.learned = model, learned

    @property
    def name(self) -> str:
        """The model's own."""
        return self.base.name

    def op(self, work: Work, device: Device) -> Estimate:
        """See ``CostModel``: one op is eager's."""
        return self._adjusted(work, self.base.op(work, device))

    def ops(self, works: Sequence[Work], device: Device) -> list[Estimate]:
        """Many ops; at once where the model can."""
        found = ops_of(self.base, works, device)
        return [self._adjusted(work, one) for work, one in zip(works, found, strict=True)]

    def _adjusted(self, work: Work, estimate: Estimate) -> Estimate:
        return estimate if work.costs_nothing else self.learned.adjust(estimate, EAGER, {work.kind: 1.0})

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """See ``CostModel``."""
        estimate = self.base.region(graph, device, engine)
        return self.learned.adjust(estimate, engine, shares(graph, device))


def ops_of(model: CostModel, works: Sequence[Work], device: Device) -> list[Estimate]:
    """Each op on its own; a model that prices many at once (a method ``ops``) is asked once."""
    many = getattr(model, "ops", None)
    return list(many(works, device)) if callable(many) else [model.op(work, device) for work in works]
