"""The folder in which bench/cost/accuracy.py and bench/cost/regret.py keep graphs, artefacts and measured times.

Every step that is done is found again there, so that a run can be stopped and gone on with at any point. What must be
measured on a quiet machine is done by a phase of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.cost.graphs import Folder, built_name
from bench.cost.models import family_of
from bench.harness.children import Caches, ChildFailedError, call_child
from bench.harness.harness import write_json

#: Engines in the order in which they are built: packed decides by measuring what inductor-packed then compiles.
ENGINES = ("eager", "packed", "openvino", "onnxruntime", "inductor", "inductor-packed")
#: Graphs that one process times, one after the other.
CHUNK = 12
#: Seconds a graph takes in such a process, about; a process is only begun if there is time for it.
_MEASURE_S, _START_S, _BUILD_S = 1.3, 5.0, 20.0

Found = dict[str, Any]


class OutOfTimeError(Exception):
    """The time of this run is over; what is done is kept."""


@dataclass
class Work:
    """See the module's text.

    Attributes:
        root: the folder.
        limit_s: seconds that this run may take; it stops between two processes.
    """

    root: Path
    limit_s: float = 1e9
    began: float = field(default_factory=time.monotonic)

    @property
    def caches(self) -> Caches:
        """Of all child processes: what one has compiled or measured about the machine, the next one finds."""
        return Caches(djinn=self.root / "djinn", inductor=self.root / "inductor", home=self.root / "home")

    def _child(self, function: str, arguments: Mapping[str, Any], expected_s: float) -> Any:
        if time.monotonic() - self.began + expected_s > self.limit_s:
            raise OutOfTimeError
        try:
            return call_child(f"bench.cost.graphs:{function}", arguments, self.caches)
        except ChildFailedError as error:
            print(f"  {function} {str(arguments)[:120]}: {str(error)[-600:]}", flush=True)
            return None

    # Capturing and building

    def capture(self, graphs: Sequence[str]) -> None:
        """Capture what has not been captured yet, one process a family."""
        wanted: dict[str, list[str]] = {}
        for graph in graphs:
            if not Folder.of(self.root, graph).facts():
                wanted.setdefault(family_of(graph), []).append(graph)
        for family, missing in wanted.items():
            arguments = {"family": family, "graphs": missing, "root": str(self.root)}
            self._child("capture", arguments, _START_S + 3 * len(missing))
            print(f"  captured {', '.join(missing)}", flush=True)

    def captured(self, graphs: Sequence[str]) -> list[str]:
        """Those of these graphs that could be captured."""
        return [graph for graph in graphs if Folder.of(self.root, graph).facts().get("hash")]

    def build(self, graphs: Sequence[str], engines: Sequence[str], threads: int = 0) -> None:
        """Have the engines make what they have not been asked for yet."""
        for engine in engines:
            name = built_name(engine, threads)
            missing = [graph for graph in self.captured(graphs) if not Folder.of(self.root, graph).built(name)]
            each_s = _BUILD_S if engine.startswith("inductor") else 1.0
            while missing:
                part, missing = missing[:CHUNK], missing[CHUNK:]
                left_s = self.limit_s - (time.monotonic() - self.began)
                arguments = {"graphs": part, "engine": engine, "root": str(self.root), "threads": threads}
                done = self._child("build", {**arguments, "limit_s": left_s - _START_S - each_s}, _START_S + each_s)
                print(f"  built {done} of {len(part)} by {name}", flush=True)
                if done is None:  # the process died: whoever killed it is out
                    self._blame(part, name)
                elif done < len(part):
                    raise OutOfTimeError

    def _blame(self, part: Iterable[str], name: str) -> None:
        first = next((g for g in part if not Folder.of(self.root, g).built(name)), None)
        if first is not None:
            Folder.of(self.root, first).put(name, {"failed": "the building process died"})

    # Measuring

    @property
    def _file(self) -> Path:
        return self.root / "measured.jsonl"

    def measured(self) -> list[Found]:
        """Every measurement so far: graph, engine, threads, process, time_s, spread, at (when, UTC); or failed."""
        if not self._file.exists():
            return []
        found = []
        for line in self._file.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a run that was killed
                found.append(json.loads(line))
        return found

    def measure(self, graphs: Sequence[str], engines: Sequence[str], processes: int, threads: int = 0) -> None:
        """Time what was built, in several processes an engine, far apart in time."""
        done = {(one["graph"], one["engine"], one["threads"], one["process"]) for one in self.measured()}
        for process in range(processes):
            for start in range(0, len(graphs), CHUNK):
                turn = process + start // CHUNK
                for engine in [*engines[turn % len(engines) :], *engines[: turn % len(engines)]]:
                    part = [
                        graph
                        for graph in graphs[start : start + CHUNK]
                        if (graph, engine, threads, process) not in done and self.has(graph, engine, threads)
                    ]
                    if part:
                        self._measure(part, engine, threads, process)

    def _measure(self, part: Sequence[str], engine: str, threads: int, process: int) -> None:
        arguments = {"graphs": part, "engine": engine, "root": str(self.root), "threads": threads}
        uncached = sum(Folder.of(self.root, g).built(built_name(engine, threads))["header"] is None for g in part)
        found = self._child("measure", arguments, _START_S + _MEASURE_S * len(part) + 5.0 * uncached)
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._file.open("a") as file:
            for graph in part:
                one = (found or {}).get(graph, {"failed": "the measuring process died"})
                line = {"graph": graph, "engine": engine, "threads": threads, "process": process, "at": at, **one}
                file.write(json.dumps(line) + "\n")
        print(f"  timed {len(part)} graphs on {engine} ({process})", flush=True)

    def has(self, graph: str, engine: str, threads: int = 0) -> bool:
        """Whether the engine made something of the graph."""
        return "header" in Folder.of(self.root, graph).built(built_name(engine, threads))

    def refused(self, graphs: Sequence[str], engines: Sequence[str]) -> dict[str, str]:
        """Why graphs were not captured, or engines took them not."""
        found = {}
        for graph in graphs:
            folder = Folder.of(self.root, graph)
            why = folder.facts().get("failed") if folder.facts() else "not captured yet"
            if why:
                found[graph] = why
                continue
            for engine in engines:
                built = folder.built(engine)
                if "header" not in built:
                    found[f"{graph} on {engine}"] = built.get("failed", "not built yet")
        return found

    # Predictions

    def predict(self, name: str, values: Mapping[str, Any]) -> Found:
        """Write predictions to a file that is never written again. Returns its facts: sha256, written.

        Raises:
            FileExistsError: there are predictions of that name.
        """
        path = self.root / f"{name}.json"
        if path.exists():
            raise FileExistsError(f"{path}: predictions are written once")
        write_json(path, {"written": datetime.now(timezone.utc).isoformat(timespec="seconds"), **values})
        return self.predicted(name)[1]

    def predicted(self, name: str) -> tuple[Found, Found]:
        """Predictions, and the facts of their file; empty if there are none."""
        path = self.root / f"{name}.json"
        if not path.exists():
            return {}, {}
        content = path.read_bytes()
        values: Found = json.loads(content)
        return values, {"sha256": hashlib.sha256(content).hexdigest(), "written": values["written"]}


def by_pair(measured: Iterable[Found], graphs: Sequence[str], threads: int = 0) -> dict[tuple[str, str], list[float]]:
    """Seconds by graph and engine, one figure a process."""
    wanted, found = set(graphs), {}
    for one in measured:
        if one["graph"] in wanted and one["threads"] == threads and "time_s" in one:
            found.setdefault((one["graph"], one["engine"]), []).append(one["time_s"])
    return found


def time_of(seconds: Sequence[float]) -> float:
    """The measured time of a graph on an engine, of one figure a process: the least.

    What else runs on a machine only makes a process slower, all of it if need be; a median of three would need two
    that nothing disturbed.
    """
    return min(seconds)


def dataset(work: Work, graphs: Sequence[str], relevant: Iterable[Found]) -> list[Found]:
    """Measured graphs with their work, for whoever makes a model: one entry a graph and engine."""
    spreads: dict[tuple[str, str], list[float]] = {}
    relevant = list(relevant)
    for one in relevant:
        if "spread" in one:
            spreads.setdefault((one["graph"], one["engine"]), []).append(one["spread"])
    found = []
    for (graph, engine), seconds in by_pair(relevant, graphs).items():
        entry = {"family": family_of(graph), "graph": graph, "engine": engine, "times_s": seconds}
        entry["time_s"] = time_of(seconds)
        entry["spread"] = statistics.median(spreads[graph, engine])
        found.append(entry)
    return found
