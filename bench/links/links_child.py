"""One end of a measured link: receives transfers (``serve``), or makes them as told on stdin (``drive``).

Both ends are processes of one machine and read one clock, so that a transfer's time is from the moment its sender
begins until its receiver has all of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import sys
import threading
import time

import numpy as np

PLAIN, MESSAGE, RELAY = 0, 1, 2
#: A transfer begins on a link at rest: tc's bucket is full again, nothing is queued.
PAUSE_S = 0.003
WARM_UP = 2
_HEAD = struct.Struct("<QII4sI")


def serve(address: str) -> None:
    """Receive for ever, on a free port that is printed; answer each transfer with the time at which it was complete."""
    listener = socket.create_server((address, 0))
    print("ready", listener.getsockname()[1], flush=True)
    while True:
        connection = prepared(listener.accept()[0])
        threading.Thread(target=_receive_all, args=(connection,), daemon=True).start()


def _receive_all(connection: socket.socket) -> None:
    buffers: dict[int, bytearray] = {}
    onward: dict[tuple[str, int], socket.socket] = {}
    while True:
        head = _exactly(connection, bytearray(_HEAD.size))
        if head is None:
            return
        nbytes, mode, length, target, port = _HEAD.unpack(head)
        buffer = buffers.setdefault(length, bytearray(length))
        if _exactly(connection, buffer) is None:
            return
        if mode == MESSAGE:
            np.load(io.BytesIO(buffer))
        done = time.perf_counter()
        if mode == RELAY:
            place = (socket.inet_ntoa(target), port)
            if place not in onward:
                onward[place] = connected(*place)
            done = transfer(onward[place], nbytes, PLAIN, memoryview(buffer))[1]
        connection.sendall(struct.pack("<d", done))


def _exactly(connection: socket.socket, buffer: bytearray) -> bytearray | None:
    view = memoryview(buffer)
    while view:
        got = connection.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return buffer


def connected(address: str, port: int) -> socket.socket:
    """A connection to a listener."""
    return prepared(socket.create_connection((address, port)))


def prepared(connection: socket.socket) -> socket.socket:
    """The connection, sending at once, with the same congestion control everywhere."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    return connection


def transfer(
    connection: socket.socket, nbytes: int, mode: int, data: memoryview, relay: tuple[str, int] | None = None
) -> tuple[float, float]:
    """Send; the times at which it began and at which the other end had it."""
    target, port = (socket.inet_aton(relay[0]), relay[1]) if relay else (b"\0" * 4, 0)
    start = time.perf_counter()
    if mode == MESSAGE:
        made = io.BytesIO()
        np.save(made, np.frombuffer(data[:nbytes], dtype=np.uint8))
        data = made.getbuffer()
    else:
        data = data[:nbytes]
    # Head and data in one call: a small packet still queued would hold the rest back.
    head = _HEAD.pack(nbytes, mode, len(data), target, port)
    sent = connection.sendmsg([head, data])
    assert sent >= len(head), "a link that takes less than a head"
    connection.sendall(data[sent - len(head) :])
    answer = _exactly(connection, bytearray(8))
    assert answer is not None, "the other end is gone"
    return start, struct.unpack("<d", answer)[0]


def drive() -> None:
    """Read commands, one a line: ``{"transfers": [[address, port, nbytes, mode, relay], …], "repeats": n}``.

    The transfers of a command run at once, each on a connection of its own. Answer: seconds of each, a list a repeat.
    """
    connections: dict[tuple[int, str, int], socket.socket] = {}
    filler = memoryview(bytearray(64 << 20))
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answers = []
        for _ in range(WARM_UP + command["repeats"]):
            time.sleep(PAUSE_S)
            answers.append(_at_once(command["transfers"], connections, filler))
        answers = answers[WARM_UP:]
        print(json.dumps(answers), flush=True)


def _at_once(
    wanted: list[list], connections: dict[tuple[int, str, int], socket.socket], filler: memoryview
) -> list[float]:
    barrier = threading.Barrier(len(wanted))
    seconds = [0.0] * len(wanted)

    def one(number: int) -> None:
        address, port, nbytes, mode, relay = wanted[number]
        key = (number, address, port)
        if key not in connections:
            connections[key] = connected(address, port)
        barrier.wait()
        start, end = transfer(connections[key], nbytes, mode, filler, tuple(relay) if relay else None)
        seconds[number] = end - start

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, len(wanted))]
    for thread in threads:
        thread.start()
    one(0)
    for thread in threads:
        thread.join()
    return seconds


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        drive()
