"""By what a graph is priced: the settings, this machine's profile and what was learned here, put together."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from djinn_fx.compiling.region_times import RegionTimes, lessons
from djinn_fx.costmodels.choose import Pricing, pricing
from djinn_fx.costmodels.profile import conditions
from djinn_fx.dispatch.tier import tier_names
from djinn_fx.hardware.device import Device
from djinn_fx.passes.base import Pass
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store


def pricing_for(settings: Settings, device: str, passes: Sequence[Pass] = (), row: Device | None = None) -> Pricing:
    """By what a graph is priced.

    Args:
        settings: in force.
        device: that its tensors are on, as torch writes it.
        passes: that will run: an estimate-cost that names a device is as good as the setting ``device``.
        row: a topology's device to price for instead.

    Raises:
        SettingsError: the device or topology that is named is none.
    """
    named = next((one.device for one in passes if isinstance(one, EstimateCost) and one.device), settings.device)
    store, _ = open_store(settings)
    # Elsewhere, and where somebody says by what to price, what is known of this machine says nothing.
    fitted = settings.cost_model in ("auto", "calibrated")
    here = named is None and settings.topology is None and fitted
    return pricing(
        "auto" if fitted else settings.cost_model,
        device=row if row is not None else named,
        kind=device.partition(":")[0],
        topology=settings.topology,
        engines=(*tier_names(settings), EAGER),
        cache_dir=settings.cache_dir,
        times=RegionTimes(store, settings) if here else None,
        conditions=functools.partial(conditions, torch.get_num_threads()) if here else None,
        learned=lessons(store).about if settings.cost_model == "auto" and here else None,
    )
