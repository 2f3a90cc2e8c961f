"""How long a device takes for prefill and for decode, iteration by iteration, from its row in the catalogue.

A model of which only shapes are known, on a device of which peak, bandwidth and measured efficiencies are: a prefill of
``m`` tokens behind ``n`` takes ``2 P m + 4 L H (n m + m²/2)`` operations (P parameters, L layers, H width of all heads;
attention is causal); an iteration of decode reads all weights and the running contexts' keys and values once. While a
prefill is under way, iterations hold a chunk of it beside a token of each running turn (chunked prefill).
"""

from __future__ import annotations

from dataclasses import dataclass

from djinn_fx.hardware.catalogue import find_device

GB = 10**9


@dataclass(frozen=True)
class Model:
    """A language model by its shapes.

    Attributes:
        parameters: how many.
        layers: how many.
        width: of all query heads together.
        kv_token_bytes: of the keys and values of one token, all layers, 16 bits each.
    """

    name: str
    parameters: float
    layers: int
    width: int
    kv_token_bytes: int


#: 32 layers, 8 of 32 heads of 128 for keys and values: 128 KB a token. And without grouped heads: 512 KB.
LLAMA_8B = Model("8B with grouped heads", 8.0e9, 32, 4096, 128 * 1024)
LLAMA_7B = Model("7B without grouped heads", 6.7e9, 32, 4096, 512 * 1024)


@dataclass(frozen=True)
class Law:
    """Seconds of compute on one device (or of several that act as one).

    Attributes:
        token_s: of a token's products with weights, in a prefill.
        pair_s: of attention between one token and one before it.
        weights_s: to read all weights: the least that an iteration takes.
        byte_s: to read a byte of keys and values.
        launch_s: of an iteration, whatever is in it.
        chunk: tokens of a prefill in an iteration.
    """

    token_s: float
    pair_s: float
    weights_s: float
    byte_s: float
    launch_s: float
    chunk: int = 2048

    def prefill_s(self, first: int, last: int) -> float:
        """Seconds for tokens ``[first, last)`` behind ``first`` others, with the device to itself."""
        count = last - first
        return count * (self.token_s + self.pair_s * (first + 0.5 * count)) if count > 0 else 0.0

    def iteration_s(self, turns: int, nbytes: float) -> float:
        """Seconds of an iteration that decodes a token of each of so many turns over so many bytes."""
        return self.launch_s + self.weights_s + self.byte_s * nbytes if turns else 0.0

    @property
    def chunk_s(self) -> float:
        """Seconds of a chunk's products."""
        return self.chunk * self.token_s


def law_of(model: Model, device: str = "h200", devices: int = 1) -> Law:
    """From the row of a device: its peak and bandwidth times what was measured of them, where it was."""
    row = find_device(device)
    rates = {"bfloat16": 0.80, "bandwidth": 0.90} | dict(row.efficiency or {})
    flops = row.peak_flops["bfloat16"] * rates["bfloat16"] * devices
    bandwidth = row.bandwidth_bytes_s * rates["bandwidth"] * devices
    return Law(
        token_s=2 * model.parameters / flops,
        # Attention reaches about half of what products do.
        pair_s=4 * model.layers * model.width / (0.5 * flops),
        weights_s=2 * model.parameters / bandwidth,
        byte_s=1 / bandwidth,
        launch_s=0.5e-3,
    )
