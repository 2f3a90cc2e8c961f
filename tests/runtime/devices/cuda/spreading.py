"""A graph's regions spread over CUDA devices of notes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.eager import as_callable
from djinn_fx.passes.placing.wanted import tied_to_home
from djinn_fx.runtime.devices.cuda.driver import Driver
from djinn_fx.runtime.devices.cuda.executor import CudaSpread
from djinn_fx.runtime.devices.cuda.make import cuda_spread
from djinn_fx.runtime.program import program_of
from djinn_fx.settings.devices import CudaDevice
from djinn_fx.srg import SRG
from djinn_fx.srg.extract import extract
from tests.running import cut_by_labels, plan_in_order

HOME = "cuda:0"


def spread(
    srg: SRG, devices: Sequence[int], driver: Driver, callables: Sequence[RegionCallable] | None = None
) -> CudaSpread:
    """A graph in regions of one op each, each on its device but for those that must stay at home."""
    cut_by_labels(srg, [number for number, _ in enumerate(srg.ops)])
    tied = tied_to_home(srg)

    def device(index: int, names: Sequence[str]) -> str:
        stays = any(srg.node(name) in tied for name in names)
        return HOME if stays else f"cuda:{devices[index % len(devices)]}"

    srg.regions = tuple(replace(one, device=device(one.index, one.nodes)) for one in srg.regions)
    srg.home = HOME
    plan = plan_in_order(srg)
    program, constants = program_of(srg, plan)
    made = callables or [as_callable(extract(srg, region)) for region in plan.regions]
    named = [CudaDevice(name=f"cuda:{place}") for place in {0, *devices}]
    return cuda_spread(srg, plan, program, made, named, constants, driver=driver)
