"""A process that hosts models, seen from whoever started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from djinn_fx.errors import DeviceLostError, EngineError
from djinn_fx.files import interpreter
from djinn_fx.remote.wire import channel
from djinn_fx.remote.wire.frame import Frame, encode
from djinn_fx.remote.wire.payload import payload_of


class Seat:
    """One process; whoever makes it calls :meth:`end`.

    Args:
        devices: numbers of those that it stands for: one, or a gang's.
        models: for each name its entry.
        cores: of the processor that it may use; empty: any.
        compiled: run models compiled by the backend "djinn".
        timeout_s: seconds that a frame may take on its way.
    """

    def __init__(
        self, devices: range, models: Mapping[str, str], cores: Sequence[int], *, compiled: bool, timeout_s: float
    ) -> None:
        self.devices, self.models = devices, models
        #: When it was started, by the monotonic clock, and seconds until it had loaded its models.
        self.begun, self.ready_s = time.monotonic(), 0.0
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(timeout_s)
        given = {
            "channel": theirs.fileno(),
            "parent": os.getpid(),
            "cores": list(cores),
            "threads": len(devices),
            "models": dict(models),
            "compiled": compiled,
        }
        path = [str(Path(one).absolute()) for one in (*sys.path, ".")]  # entries are found where they are from here
        try:
            self._process = subprocess.Popen(
                interpreter.command("djinn_fx.deploy.running.worker:main", given, path),
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,  # what models print is no part of a command's output
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "OMP_NUM_THREADS": str(len(devices))},
                start_new_session=True,  # an interrupt goes to the parent, which ends this one
            )
        except OSError as error:
            self.channel.close()
            raise EngineError(f"a process for device {devices.start} cannot be started: {error}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[torch.Tensor]) -> None:
        """Have it run a node.

        Raises:
            EngineError: this cannot be sent: it is no JSON, or too large.
            DeviceLostError: the process is there no more.
        """
        payloads = {str(place): payload_of(one) for place, one in enumerate(tensors)}
        pieces = encode(kind, fields, payloads, digests=False)
        try:
            channel.send(self.channel, pieces)
        except OSError as error:
            raise DeviceLostError(self.why()) from error

    def hear(self) -> Frame:
        """What it says next.

        Raises:
            DeviceLostError: it is there no more, or says nothing in time, or what is no frame.
        """
        try:
            frame = channel.receive(self.channel, verify=False)
        except TimeoutError as error:
            raise DeviceLostError(f"the process of {self.name} did not answer in time") from error
        except OSError as error:
            raise DeviceLostError(self.why()) from error
        except EngineError as error:
            raise DeviceLostError(f"the process of {self.name}: {error}") from error
        if frame is None:
            raise DeviceLostError(self.why())
        return frame

    @property
    def name(self) -> str:
        """Its devices in words."""
        if len(self.devices) == 1:
            return f"device {self.devices.start}"
        return f"devices {self.devices.start} to {self.devices[-1]}"

    def why(self) -> str:
        """How it ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return f"the process of {self.name} closed its channel"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the process of {self.name} {how}"

    def end(self) -> None:
        """Kill it and what it started."""
        self.channel.close()
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


__all__ = ["Seat"]
