"""What the engines that run ONNX models have in common: a region becomes a model at once, in this process.

The artefact is the model without weights: every argument is one of its inputs. It is small, the same on every machine,
and made in milliseconds; the work is in opening it, with the weights at hand, which is done when the region is called
(:mod:`djinn_fx.engines.bound.region`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.bound.closing import LIBRARIES
from djinn_fx.engines.bound.region import BoundRegion, Session
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind

log = logging.getLogger("djinn_fx.engines")


class OnnxEngine:
    """See the module's text. Subclasses say which runtime, and open models with it.

    Args:
        precision: as the setting of that name.
        weights: as the setting of that name.
        folder: of the cache, where it is noted that the libraries run here; None: they are tried in each process.
        filed: folder for a file in which the weights are to lie; None: they stay in memory.
    """

    name: ClassVar[str]
    #: Distributions that must be installed.
    libraries: ClassVar[tuple[str, ...]]
    #: Raised when models are opened in another way whose results may differ.
    session_version: ClassVar[int] = 1

    def __init__(
        self, precision: str = "exact", weights: str = "auto", folder: Path | None = None, filed: Path | None = None
    ) -> None:
        self.precision, self.weights, self.folder, self.filed = precision, weights, folder, filed
        self._last: tuple[weakref.ref[torch.fx.GraphModule], Any] | None = None

    # What subclasses say

    def session(self, model: bytes, signature: Any, weights: Mapping[int, torch.Tensor], label: str) -> Session:
        """Open a model with these weights, by place, as constants.

        Raises:
            EngineError: the runtime does not take it.
        """
        raise NotImplementedError

    # The engine's contract

    def capability(self) -> Capability:
        """Whether the libraries are installed, and are such as this package knows how to call."""
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            why = f"{' and '.join(missing)} not installed; pip install 'djinn-fx[{self.name}]'"
            return Capability(can_build=False, can_run=False, why_not=why)
        versions = self._versions()
        from djinn_fx.engines.onnx.serving.trial import problem

        trouble = problem(self.name, versions, self.session, self.folder)
        able = trouble is None
        return Capability(can_build=able, can_run=able, versions=versions, why_not=trouble)

    def supports(self, region: RegionGraph) -> Reason | None:
        """None if the region has an exact equal in ONNX, else the op that has none, and its line."""
        capability = self.capability()
        if not capability.can_build:
            return self._refusal(region, str(capability.why_not))
        converted = self._converted(region)
        return converted if isinstance(converted, Reason) else None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Convert a region.

        Raises:
            EngineError: it has no exact equal in ONNX.
        """
        converted = self._converted(region)
        if isinstance(converted, Reason):
            raise EngineError(converted.detail)
        header = {
            "engine": self.name,
            "label": region.label,
            "signature": converted.signature.to_json(),
            "weights": list(region.weights),
            "outputs": len(converted.signature.results),
        }
        return Artefact(header=header, payload=converted.model)

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """Converting takes less time than handing the region to another process would."""
        detail = f"{self.name}: converted in this process, which takes milliseconds"
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=region.label)

    def load(self, artefact: Artefact) -> RegionCallable:
        """A model as a callable that opens its sessions when it is called.

        Raises:
            EngineError: the header is not one of this engine's.
        """
        from djinn_fx.engines.bound.signature import Signature

        model, header = artefact.payload, artefact.header
        assert model is not None, "a model is always kept"
        try:
            signature = Signature.from_json(header["signature"])
            weights, label = [int(place) for place in header["weights"]], str(header.get("label", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.name}: an artefact's header cannot be read: {error}") from error
        LIBRARIES.update(self.libraries)
        return BoundRegion(
            engine=self.name,
            label=label,
            signature=signature,
            weights=weights,
            opener=lambda bound: self.session(model, signature, bound, label),
            mode=self.weights,
            filed=self.filed,
        )

    def fingerprint(self) -> Mapping[str, str]:
        """Versions, and the settings that change results or sessions."""
        from djinn_fx.engines.onnx.convert import CONVERTER_VERSION

        return {
            "engine": self.name,
            "converter": str(CONVERTER_VERSION),
            "session": str(self.session_version),
            "precision": self.precision,
            "weights": self.weights,
            "threads": str(torch.get_num_threads()),
            "torch": str(torch.__version__),
            **self._versions(),
        }

    # Converting

    def _versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in self.libraries}

    def _converted(self, region: RegionGraph) -> Any:
        """The region as a model, or the Reason; kept for the question after this one."""
        if self._last is not None and self._last[0]() is region.gm:
            return self._last[1]
        from djinn_fx.engines.onnx.convert import convert
        from djinn_fx.engines.onnx.values import Refused

        converted: Any
        try:
            with unset_fake_temporarily():  # AOTAutograd's is on while it compiles: constants would be fake
                converted = convert(region, self.name)
            json.dumps(converted.signature.to_json(), allow_nan=False)
        except Refused as refused:
            converted = self._refusal(region, str(refused))
        except Exception as error:  # a mistake in one of many converters: the Reason tells it
            log.warning("%s: converting %s failed", self.name, region.label, exc_info=True)
            converted = self._refusal(region, f"converting failed: {type(error).__name__}: {error}")
        self._last = (weakref.ref(region.gm), converted)
        return converted

    def _refusal(self, region: RegionGraph, why: str) -> Reason:
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"{self.name}: {why}", node=region.label)
