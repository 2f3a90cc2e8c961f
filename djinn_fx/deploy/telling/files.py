"""The two files of the older form: ``static_scheduler.log`` and ``static_execution_log.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.telling import execution_log
from djinn_fx.deploy.telling.rows import executions
from djinn_fx.errors import SettingsError

LOG, EXECUTIONS = "static_scheduler.log", "static_execution_log.json"


def write(
    planned: Planned,
    text: str,
    folder: Path,
    *,
    mode: str,
    simulate: bool,
    failures: Mapping[str, str] | None = None,
) -> None:
    """Write both into a folder; arguments as for :func:`djinn_fx.deploy.telling.execution_log.pieces`.

    Raises:
        SettingsError: they cannot be written there.
    """
    per_server = max(map(len, planned.problem.cluster.servers))
    pieces = execution_log.pieces(planned, mode=mode, simulate=simulate, per_server=per_server, failures=failures)
    try:
        with (folder / LOG).open("w", encoding="utf-8") as stream:
            stream.writelines(_lines(planned, text))
        with (folder / EXECUTIONS).open("w", encoding="utf-8") as stream:
            stream.writelines(pieces)
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _lines(planned: Planned, text: str) -> Iterator[str]:
    yield from (f"{line}\n" for line in text.split("\n"))
    yield "\nExecutions:\n"
    for one in executions(planned):
        gpus = ", ".join(map(str, one.gpu_ids))
        yield (
            f"[{one.start:.2f}s] {one.request_id} {one.node_id} ({one.model_name}) on GPU {gpus} "
            f"(Server {one.server_id}) until {one.end:.2f}s\n"
        )
