"""Coefficients of the GPU laws from measured times: shared by devices, then bent to each, or to a few samples.

What the package ships (``costmodels/data/gpu_kernels.json``) is a table written by :func:`table_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from djinn_fx.costmodels.laws.gpu import SCHEMA, Fitted
from djinn_fx.costmodels.laws.gpu_laws import Array, GpuSpec, Law

#: Residuals (in logarithms) above this count linearly, not squared: an outlier must not bend a law.
_ROBUST = 0.05
#: How far a device's own coefficients lie from the shared ones, as a share of the coefficient's spread.
_OWN = 1.0
#: Beyond this share of the spread, a device's deviation costs by its size, not its square: one odd device must not
#: move what is shared.
_HEAVY = 0.1
#: How strongly what is plausible beforehand counts, in samples.
_PRIOR_SAMPLES = 20.0
#: How strongly the laws' plausible start values count against what the devices share, in the same unit. Strong: four
#: devices tell little of what all GPUs share (docs/decisions/0013 has the figures for a weak one).
START_SAMPLES = 20.0
#: What a refined law leaves: its size and the samples' own noise (logarithms), and how far it reaches in octaves.
_LEFT, _LEFT_NOISE, _LEFT_REACH = 0.05, 0.03, 2.0
_STEPS = 12
_NUDGE = 1e-4


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured times of one device and law.

    Attributes:
        spec: the device.
        sizes: shape (samples, the law's columns).
        seconds: shape (samples,).
    """

    spec: GpuSpec
    sizes: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def pick(self, index: Array) -> Samples:
        """Some of the samples."""
        return Samples(self.spec, self.sizes[index], self.seconds[index])


def fit(law: Law, sources: Sequence[Samples], start_samples: float = START_SAMPLES) -> Fitted:
    """Shared and own coefficients from several devices' samples; devices count alike however many samples they have.

    Args:
        law: which law.
        sources: the devices' samples.
        start_samples: how strongly the law's start values count.
    """
    shared = law.start.copy()
    own = np.zeros((len(sources), len(shared)))
    weight_own = 1 / (_OWN * law.spread) ** 2
    weight_shared = start_samples / law.spread**2
    for _ in range(_STEPS):
        heavy = weight_own / np.maximum(1.0, np.abs(own) / (_HEAVY * law.spread))
        matrices, sides = zip(*(_normal(law, one, shared + own[i]) for i, one in enumerate(sources)), strict=True)
        shared, own = _solve(np.array(matrices), np.array(sides), shared, own, shared - law.start, weight_shared, heavy)
    return Fitted(law, shared, own, tuple(one.spec for one in sources))


def refine(law: Law, start: Array, samples: Samples, spread: Array) -> Array:
    """A device's coefficients from a few of its own samples and what was expected of it before.

    Args:
        law: which law.
        start: expected coefficients.
        samples: the few measured times.
        spread: how far the truth may lie from ``start``, one standard deviation each.
    """
    values: Array = start.copy()
    for _ in range(_STEPS):
        matrix, side = _normal(law, samples, values, per=1.0 / _ROBUST)
        prior = np.diag(1 / spread**2)
        step = np.linalg.solve(matrix + prior, side - (values - start) / spread**2)
        values = np.asarray(values + np.clip(step, -0.5, 0.5))
    return values


def refine_few(fitted: Fitted, samples: Samples) -> Callable[[Array], Array]:
    """Times on a device of which a few samples are known: refined coefficients, then what is left by nearness.

    What the refined law leaves is taken as a Gaussian process over the sizes in octaves.

    Returns:
        seconds for rows of sizes.
    """
    law, spec = fitted.law, samples.spec
    values = refine(law, fitted.values(spec), samples, law.spread)
    residual = np.log(samples.seconds / law.seconds(spec, samples.sizes, values))
    here = np.log2(np.maximum(samples.sizes, 1.0))
    nugget = _LEFT_NOISE**2
    matrix = _LEFT**2 * _near(here, here) + nugget * np.eye(len(here))
    weight = np.linalg.solve(matrix, np.clip(residual, -1.0, 1.0))

    def seconds(sizes: Array) -> Array:
        left = _LEFT**2 * _near(np.log2(np.maximum(sizes, 1.0)), here) @ weight
        return np.asarray(law.seconds(spec, sizes, values) * np.exp(left))

    return seconds


def _near(first: Array, second: Array) -> Array:
    """Likeness of rows of sizes in octaves, 1 on themselves."""
    apart = np.sqrt(((first[:, None] - second[None]) ** 2).sum(2))
    return np.asarray(np.exp(-apart / _LEFT_REACH))


def _normal(law: Law, samples: Samples, values: Array, per: float | None = None) -> tuple[Array, Array]:
    """Normal equations of one step: J'WJ and J'Wr, r the logarithm of measured over predicted."""
    base = np.log(law.seconds(samples.spec, samples.sizes, values))
    residual = np.log(samples.seconds) - base
    columns = []
    for index in range(len(values)):
        moved = values.copy()
        moved[index] += _NUDGE
        columns.append((np.log(law.seconds(samples.spec, samples.sizes, moved)) - base) / _NUDGE)
    jacobian = np.stack(columns, axis=1)
    weight = 1 / np.maximum(np.abs(residual), _ROBUST)
    weight = weight * (per if per is not None else 100.0 / len(samples))
    weighted = jacobian * weight[:, None]
    return jacobian.T @ weighted, weighted.T @ residual


def _solve(
    matrices: Array, sides: Array, shared: Array, own: Array, off: Array, weight_shared: Array, weight_own: Array
) -> tuple[Array, Array]:
    """One damped step of all coefficients together: shared first, then each device's own."""
    devices, count = own.shape
    size = count * (devices + 1)
    matrix = np.zeros((size, size))
    side = np.zeros(size)
    matrix[:count, :count] = matrices.sum(0) + np.diag(weight_shared)
    side[:count] = sides.sum(0) - weight_shared * off
    for i in range(devices):
        at = slice(count * (i + 1), count * (i + 2))
        matrix[:count, at] = matrix[at, :count] = matrices[i]
        matrix[at, at] = matrices[i] + np.diag(weight_own[i] * _PRIOR_SAMPLES)
        side[at] = sides[i] - weight_own[i] * _PRIOR_SAMPLES * own[i]
    step = np.clip(np.linalg.solve(matrix, side), -0.5, 0.5)
    return shared + step[:count], own + step[count:].reshape(devices, count)


def table_json(
    fits: Mapping[str, Fitted],
    errors: Mapping[str, Mapping[str, Iterable[float]]],
    source: str,
) -> dict[str, Any]:
    """The file of coefficients.

    Args:
        fits: by law, on all devices.
        errors: by law, 80 % factors ``seen`` and ``unseen``.
        source: what was fitted on, and when.
    """
    devices = {spec.name: spec for fitted in fits.values() for spec in fitted.specs}
    fields = GpuSpec.__dataclass_fields__
    return {
        "schema": SCHEMA,
        "source": source,
        "devices": [{name: getattr(spec, name) for name in fields} for spec in devices.values()],
        "laws": {
            name: {
                "coefficients": [one.name for one in fitted.law.coefficients],
                "shared": _rounded(fitted.shared),
                "own": {spec.name: _rounded(own) for spec, own in zip(fitted.specs, fitted.own, strict=True)},
                **{kind: _rounded(factors) for kind, factors in errors[name].items()},
            }
            for name, fitted in fits.items()
        },
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
