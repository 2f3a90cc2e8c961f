"""The memory plan of what Inductor made: read off the Python function it wrote, which says when buffers come and go.

Inductor fuses ops and uses buffers again, so a plan of the graph's own ops says nothing of it. Its function allocates,
renames and deletes buffers one statement at a time; it is parsed, never run. What it calls of torch makes results of
its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from djinn_fx.costmodels.work.sizes import worked_out
from djinn_fx.engines.inductor.memory.foreign import Seen, foreign
from djinn_fx.errors import EngineError
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep

#: How allocations are written, by the end of the function's name: the device's type.
_EMPTY = {"empty_strided_cpu": "cpu", "empty_strided_cuda": "cuda:0", "empty_strided_xpu": "xpu:0"}
#: What arguments are for; nothing else that the function holds is.
_GIVEN = (Holds.INPUT, Holds.WEIGHT, Holds.STATE, Holds.SAVED)
_ALIASES = ("reinterpret_tensor", "alloc_from_pool", "torch.as_strided")


@dataclass
class _Block:
    """One piece of memory while the function is read."""

    name: str
    nbytes: int
    start: int
    device: str
    names: set[str] = field(default_factory=set)
    end: int | None = None
    holds: Holds = Holds.ACTIVATION


def memory_plan_of(
    source: str,
    inputs: Sequence[MemoryRow],
    dtypes: Sequence[str],
    *,
    values: Mapping[str, int] | None = None,
    phase: str = "inference",
    threads: int = 1,
) -> MemoryPlan:
    """Who lives when in a module that Inductor wrote.

    Args:
        source: the module's text.
        inputs: a row for each tensor argument, in their order. What was saved goes after its last use.
        dtypes: of the same, as torch names them without the prefix.
        values: a value for each size symbol.
        phase: of the graph.
        threads: of torch's kernels.

    Raises:
        EngineError: it is not of the form that is known.
    """
    try:
        body = _body(ast.parse(source))
        reader = _Reader(values or {}, inputs, dtypes, threads)
        for statement in body:
            reader.read(statement)
    except (SyntaxError, ValueError, LookupError, TypeError) as error:
        raise EngineError(
            f"the text of what Inductor made is not understood: {type(error).__name__}: {error}"
        ) from error
    total = max(1, len(reader.steps))
    rows = [
        MemoryRow(
            name=block.name,
            holds=block.holds,
            nbytes=block.nbytes,
            start=block.start,
            end=_end(block, total),
            device=block.device,
            given=block.holds in _GIVEN,
        )
        for block in reader.blocks
    ]
    return MemoryPlan(phase=phase, rows=tuple(rows), steps=tuple(reader.steps))


def _end(block: _Block, total: int) -> int:
    held = block.holds in (Holds.INPUT, Holds.WEIGHT, Holds.STATE)
    return total if block.end is None or held else max(block.end, block.start + 1)


def _body(module: ast.Module) -> list[ast.stmt]:
    """The statements of the function that is called."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == "call":
            return node.body
    raise ValueError("no function named call")


class _Reader:
    """Reads one statement after another.

    Args:
        values: of size symbols.
        inputs: rows of the arguments.
        dtypes: theirs.
        threads: of torch's kernels.
    """

    def __init__(
        self, values: Mapping[str, int], inputs: Sequence[MemoryRow], dtypes: Sequence[str], threads: int
    ) -> None:
        self.blocks: list[_Block] = []
        self.steps: list[MemoryStep] = []
        self._values, self._threads = values, threads
        self._inputs = tuple(zip(inputs, dtypes, strict=True))
        self._of: dict[str, list[_Block]] = {}
        self._seen: dict[str, Seen] = {}

    def read(self, statement: ast.stmt) -> None:
        """One statement."""
        if isinstance(statement, ast.With):
            for inner in statement.body:
                self.read(inner)
        elif isinstance(statement, ast.Assign):
            self._assign(ast.unparse(statement.targets[0]), statement)
        elif isinstance(statement, ast.Delete):
            for target in statement.targets:
                self._forget(ast.unparse(target))
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self._call(statement.value)
        elif isinstance(statement, ast.Return) and statement.value is not None:
            for block in (one for name in _names(statement.value) for one in self._of.get(name, ())):
                block.holds = Holds.OUTPUT if block.holds is Holds.ACTIVATION else block.holds

    def _assign(self, name: str, statement: ast.Assign) -> None:
        value = statement.value
        if isinstance(value, ast.Name) and value.id == "args":
            self._arguments([ast.unparse(one) for one in getattr(statement.targets[0], "elts", [])])
        elif isinstance(value, ast.Call) and (device := _EMPTY.get(ast.unparse(value.func).rpartition(".")[2])):
            sizes, strides, dtype = self._numbers(value.args[0]), self._numbers(value.args[1]), value.args[2]
            self._seen[name] = seen = Seen(sizes, strides, ast.unparse(dtype).removeprefix("torch."))
            self._name(name, [self._made(name, seen.nbytes, device)])
        elif (blocks := self._base(value)) is not None:
            self._name(name, blocks)
            if (view := self._view(value)) is not None:
                self._seen[name] = view
        elif isinstance(value, ast.Call):
            self._outside(name, value)

    def _arguments(self, names: list[str]) -> None:
        tensors = [name for name in names if not _is_symbol(name)]
        known: dict[str, _Block] = {}
        for name, (row, dtype) in zip(tensors, self._inputs, strict=True):
            block = known.get(row.name)
            if block is None:
                block = known[row.name] = self._made(row.name, row.nbytes, row.device, row.holds)
            self._name(name, [block])
            self._seen[name] = Seen((), (), dtype)

    def _base(self, value: ast.expr) -> list[_Block] | None:
        """The memory that an expression is another name for."""
        if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
            parts = self._of.get(ast.unparse(value.value))
            return parts if parts is None or len(parts) == 1 else [parts[int(str(value.slice.value))]]
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith(_ALIASES) and value.args:
            value = value.args[0]
        return self._of.get(value.id) if isinstance(value, ast.Name) else None

    def _view(self, value: ast.expr) -> Seen | None:
        """Sizes, strides and type of an expression that is a buffer or a view of one."""
        if isinstance(value, ast.Name):
            return self._seen.get(value.id)
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "reinterpret_tensor":
            base = self._view(value.args[0])
            dtype = base.dtype if base is not None else "float32"
            return Seen(self._numbers(value.args[1]), self._numbers(value.args[2]), dtype)
        return None

    def _made(self, name: str, nbytes: int, device: str, holds: Holds = Holds.ACTIVATION) -> _Block:
        self.blocks.append(_Block(name=name, nbytes=nbytes, start=len(self.steps), device=device, holds=holds))
        return self.blocks[-1]

    def _name(self, name: str, blocks: list[_Block]) -> None:
        for block in blocks:
            block.names.add(name)
        old = self._of.get(name)
        self._of[name] = blocks
        if old is not None and old is not blocks:
            self._drop(name, [block for block in old if block not in blocks])

    def _call(self, call: ast.Call) -> None:
        called = ast.unparse(call.func)
        if called == "assert_size_stride":
            name = ast.unparse(call.args[0])
            self._checked(name, self._numbers(call.args[1]), self._numbers(call.args[2]))
        elif called not in ("args.clear", "assert_alignment"):
            self.steps.append(MemoryStep(name=called, op=called))

    def _checked(self, name: str, sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
        """What is asserted of a buffer is so; nothing else tells the sizes of arguments."""
        seen = self._seen.get(name)
        self._seen[name] = now = Seen(sizes, strides, seen.dtype if seen is not None else "float32")
        for block in self._of.get(name, ()):
            if not block.nbytes and block.holds is Holds.ACTIVATION:
                block.nbytes = now.nbytes

    def _outside(self, name: str, call: ast.Call) -> None:
        """A call of torch's that makes its own results."""
        called = ast.unparse(call.func)
        self.steps.append(MemoryStep(name=name, op=called))
        step, device = len(self.steps) - 1, self._device(call)
        results, own = foreign(called, call, self._view, self._threads)
        blocks = [self._made(name, one.nbytes, device) for one in results] or [self._made(name, 0, device)]
        for block in blocks:
            block.start = step
        if own:
            self._made(name, own, device, Holds.WORKSPACE).start = step
            self.blocks[-1].end = step + 1
        if len(results) == 1:
            self._seen[name] = results[0]
        self._name(name, blocks)

    def _forget(self, name: str) -> None:
        self._drop(name, self._of.pop(name, []))

    def _drop(self, name: str, blocks: list[_Block]) -> None:
        for block in blocks:
            block.names.discard(name)
            if not block.names:
                block.end = len(self.steps)

    def _numbers(self, value: ast.expr) -> tuple[int, ...]:
        return tuple(int(worked_out(ast.unparse(one), self._values)) for one in getattr(value, "elts", []))

    def _device(self, call: ast.Call) -> str:
        return next((self._of[name][0].device for name in _names(call) if self._of.get(name)), "cpu")


def _names(value: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(value) if isinstance(node, ast.Name))


def _is_symbol(name: str) -> bool:
    return name[:1] in "su" and name[1:].isdigit()
