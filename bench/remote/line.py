"""A worker's requests through one of Ray's Compiled Graphs: memory that both sides have, and no scheduling of a call.

An actor call is scheduled anew each time, and what is large passes through the object store. A line is for one worker
and one caller at a time, for frames up to a size that is reserved while it lives. djinn does not use it: decision 0037.
"""

from __future__ import annotations

import contextlib
from typing import Any

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.carried import carried
from djinn_fx.remote.wire.frame import Frame
from djinn_fx.remote.workers.client import Pieces, WorkerClient
from djinn_fx.remote.workers.cluster import imported
from djinn_fx.threads import new_lock

#: What Ray puts around a frame.
_AROUND_BYTES = 2**16


class Line:
    """A worker's line.

    Args:
        worker: the one.
        frame_bytes: of the largest frame, there or back.

    Raises:
        DeviceLostError: the worker is lost.
        EngineError: this Ray has no Compiled Graphs.
    """

    def __init__(self, worker: WorkerClient, frame_bytes: int) -> None:
        self.worker, self.frame_bytes = worker, frame_bytes
        self._lock = new_lock()
        self._graph: Any = None
        try:
            dag = imported("ray.dag")
            with dag.InputNode() as given:
                answer = worker.actor.take.bind(given)
            self._graph = answer.experimental_compile(
                _buffer_size_bytes=frame_bytes + _AROUND_BYTES, _submit_timeout=worker.timeout_s, enable_asyncio=False
            )
        except (AttributeError, TypeError, ImportError) as error:
            raise EngineError(f"this Ray has no Compiled Graphs as they are used here: {error}") from error
        except Exception as error:
            raise worker.failed(error) from error

    def call(self, kind: str, pieces: Pieces) -> Frame:
        """A request and its answer.

        Args:
            kind: as which it is counted.
            pieces: of the frame.

        Raises:
            DeviceLostError: the worker is dead, or did not answer in its time.
            EngineError: the frame is larger than the line takes, or the worker could not do what it was asked.
        """
        size = sum(len(piece) for piece in pieces)
        if size > self.frame_bytes:
            raise EngineError(f"a frame of {size} bytes on a line for {self.frame_bytes}")
        self.worker.check()
        with self._lock:
            try:
                answers = self._graph.execute(carried(pieces)).get(timeout=self.worker.timeout_s)
            except Exception as error:
                self.close()
                raise self.worker.failed(error) from error
            self.worker.count(kind, size)
            return self.worker.decoded(answers)[0]

    def close(self) -> None:
        """Give back what is reserved. Any number of times."""
        graph, self._graph = self._graph, None
        if graph is not None:
            with contextlib.suppress(Exception):  # the worker is dead, and what was reserved with it
                graph.teardown(kill_actors=False)
