"""Fitting the laws of :mod:`~djinn_fx.costmodels.laws.curves` to what was measured on a machine.

For each engine and number of threads the parameters are those that make the logarithm of predicted over measured time
small, while none strays from its guess without need (a normal prior on its logarithm): a parameter that no sample
tells anything of stays where it was. The guess of an engine is the fit of eager on the same threads, for most engines
share kernels with it. Outliers count less (Huber).

How wrong the fit is on graphs it has not seen comes from the same linear algebra: the residuals that leaving out a
whole family of samples would have given, without fitting again, and the variance that the parameters' uncertainty
gives each prediction. See :mod:`~djinn_fx.costmodels.laws.interval`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from djinn_fx.costmodels.laws.curves import NAMES, OP_SPREAD, PARAMETERS, Batch, batch, graph_seconds
from djinn_fx.costmodels.laws.fusion import kernels, policy_of
from djinn_fx.costmodels.laws.interval import conformal_scale
from djinn_fx.costmodels.profile import Sample
from djinn_fx.settings.engines import EAGER, INDUCTOR_PACKED, PACKED

Array = NDArray[np.float64]

SCHEMA = 1
#: Expected error of the laws themselves, as a share: for graphs of many kernels, whose errors cancel, and for few.
_ERROR_OF_MANY, _ERROR_OF_FEW = 0.04, 0.08
#: Kernels from which a graph is "many".
MANY = 8
#: Residuals beyond this many times their expected size count linearly, not squared; beyond the second, hardly.
_HUBER, _FAR = 2.0, 6.0
#: Steps after which the second applies.
_SETTLED = 12
_STEPS, _ENOUGH = 40, 1e-4
#: Engines that are fitted before others, because theirs is the others' guess.
_FIRST = (EAGER,)
#: What of eager's fit says nothing of an engine, by the beginnings of names: its kernels for that are its own.
_OWN_KERNELS: dict[str, tuple[str, ...]] = {
    PACKED: ("linear.rows",),
    INDUCTOR_PACKED: ("linear.rows",),
}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The parameters of one engine and number of threads.

    Attributes:
        names: of the parameters: ``curves.NAMES``, then those of single ops.
        logs: logarithms of the parameters.
        covariance: of them.
        error: typical error of the laws themselves, as a share.
        scale: times the predicted standard deviation, the half width of the 80 % interval in the logarithm.
        samples: how many it was fitted to.
    """

    names: tuple[str, ...]
    logs: Array
    covariance: Array
    error: float
    scale: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_json`. Figures are rounded: a profile stays small."""
        lower = self.covariance[np.tril_indices(len(self.logs))]
        return {
            "names": list(self.names),
            "logs": [round(float(value), 6) for value in self.logs],
            "covariance": [float(f"{value:.3g}") for value in lower],
            "error": self.error,
            "scale": self.scale,
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fitted:
        """The fit behind :meth:`to_json`'s data.

        Raises:
            ValueError: made for other laws than these.
        """
        names = tuple(data["names"])
        if names[: len(NAMES)] != NAMES or not all(name.startswith("op.") for name in names[len(NAMES) :]):
            raise ValueError("the fit was made for other laws; run djinn calibrate")
        covariance = np.zeros((len(names), len(names)))
        covariance[np.tril_indices(len(names))] = data["covariance"]
        covariance += np.tril(covariance, -1).T
        return cls(
            names=names,
            logs=np.asarray(data["logs"], dtype=np.float64),
            covariance=covariance,
            error=float(data["error"]),
            scale=float(data["scale"]),
            samples=int(data["samples"]),
        )


def fit(samples: Sequence[Sample]) -> dict[str, Any]:
    """Parameters for each engine and number of threads among the samples, as plain data for a profile.

    Args:
        samples: of one machine. Those of accelerators are left out: their laws are elsewhere.

    Returns:
        ``{"schema", "engines": {"eager/2": ...}}``; see :class:`Fitted`.
    """
    groups: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.device == "cpu":
            groups[sample.engine, sample.threads].append(sample)
    done: dict[tuple[str, int], Fitted] = {}
    for engine, threads in sorted(groups, key=lambda key: (key[0] not in _FIRST, key)):
        done[engine, threads] = fit_engine(groups[engine, threads], done.get((_FIRST[0], threads)))
    return {
        "schema": SCHEMA,
        "engines": {f"{engine}/{threads}": made.to_json() for (engine, threads), made in done.items()},
    }


def fit_engine(samples: Sequence[Sample], guess: Fitted | None = None) -> Fitted:
    """Fit the samples of one engine and number of threads.

    Args:
        samples: at least one.
        guess: a fit to start from and stay near; None: ``curves.PARAMETERS``.
    """
    columns, threads = columns_of(samples), samples[0].threads
    names = (*NAMES, *sorted(f"op.{op}" for op, _ in set(columns.ops)))
    target = np.log([sample.time_s for sample in samples])
    many = np.diff(np.append(columns.starts, len(columns.klass))) >= MANY
    expected = np.hypot(np.where(many, _ERROR_OF_MANY, _ERROR_OF_FEW), [sample.spread for sample in samples])
    known = {one.name: float(np.log(one.guess)) for one in PARAMETERS}
    if guess is not None:
        own = _OWN_KERNELS.get(samples[0].engine, ())
        known.update(
            (name, float(log)) for name, log in zip(guess.names, guess.logs, strict=True) if not name.startswith(own)
        )
    start = np.asarray([known.get(name, 0.0) for name in names])
    spreads = np.asarray([*(one.spread for one in PARAMETERS), *[OP_SPREAD] * (len(names) - len(NAMES))])

    def residuals(logs: Array) -> Array:
        return (np.log(graph_seconds(columns, logs, threads, names)) - target) / expected

    logs, weights = _least_squares(residuals, start, spreads)
    value = residuals(logs[None])[0]
    slopes = _slopes(residuals, logs) * np.sqrt(weights)[:, None]
    covariance = np.linalg.inv(slopes.T @ slopes + np.diag(spreads**-2.0))
    left_out, variances = _left_out(value, slopes, covariance, [sample.family or sample.label for sample in samples])
    judged = many if many.sum() >= 15 else np.ones(len(samples), dtype=bool)
    error = max(0.01, float(np.median(np.abs(value * expected)[judged]) / 0.6745))
    deviations = np.hypot(error, np.sqrt(variances) * expected)
    return Fitted(
        names=names,
        logs=logs,
        covariance=covariance,
        error=error,
        scale=conformal_scale((left_out * expected / deviations)[judged]),
        samples=len(samples),
    )


def columns_of(samples: Sequence[Sample]) -> Batch:
    """The kernels that the samples' engine makes of their graphs."""
    return batch([kernels(sample.graph, policy_of(sample.engine)) for sample in samples])


def _least_squares(residuals: Callable[[Array], Array], start: Array, spreads: Array) -> tuple[Array, Array]:
    """Levenberg-Marquardt with a prior and weights that fall with the residual's size.

    Returns:
        The logarithms of the parameters, and the weights of the residuals.
    """
    logs, damping, prior = start.copy(), 1e-3, spreads**-2.0
    value = residuals(logs[None])[0]
    for turn in range(_STEPS):
        weights = _weights(value, turn >= _SETTLED)
        slopes = _slopes(residuals, logs)
        gradient = slopes.T @ (weights * value) + prior * (logs - start)
        curvature = (slopes * weights[:, None]).T @ slopes + np.diag(prior)

        def loss(found: Array, at: Array, weights: Array = weights) -> float:
            return float((weights * found**2).sum() + (prior * (at - start) ** 2).sum())

        before = loss(value, logs)
        while damping < 1e6:
            step = np.clip(np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient), -1.0, 1.0)
            tried = residuals((logs + step)[None])[0]
            gained = before - loss(tried, logs + step)
            if gained >= 0:
                break
            damping *= 4.0
        else:
            break
        logs, value, damping = logs + step, tried, max(damping / 4.0, 1e-9)
        if gained < _ENOUGH * before and turn > _SETTLED:
            break
    return logs, _weights(value, True)


def _weights(value: Array, settled: bool) -> Array:
    """Huber's weights; once the fit has settled, what lies far off counts for next to nothing.

    A time taken while something else ran may be any number of times too long: no fit should go half-way to meet it.
    """
    size = np.maximum(np.abs(value), 1e-9)
    weights = np.minimum(1.0, _HUBER / size)
    return weights * np.minimum(1.0, (_FAR / size) ** 2) if settled else weights


def _slopes(residuals: Callable[[Array], Array], logs: Array) -> Array:
    """Derivatives of the residuals [residuals, parameters], by differences; all parameters in one evaluation."""
    width = 1e-4
    moved = logs[None] + width * np.eye(len(logs))
    base = residuals(logs[None])[0]
    slopes: Array = ((residuals(moved) - base) / width).T
    return slopes


def _left_out(value: Array, slopes: Array, covariance: Array, families: Sequence[str]) -> tuple[Array, Array]:
    """What the residuals and their variances would be with each family left out of the fit (to first order)."""
    left, variances = value.copy(), np.zeros_like(value)
    for family in sorted(set(families)):
        here = np.asarray([one == family for one in families])
        own = slopes[here]
        leverage = own @ covariance @ own.T
        inverse = np.linalg.inv(np.eye(len(own)) - leverage + 1e-6 * np.eye(len(own)))
        left[here] = inverse @ value[here]
        variances[here] = np.diag(inverse @ leverage)
    return left, np.maximum(variances, 0.0)
