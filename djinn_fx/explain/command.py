"""The command line of explain."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from djinn_fx.command_line import (
    FOUND_WRONG,
    OK,
    add_json,
    add_model,
    add_options,
    carry_out,
    json_target,
    read_options,
)
from djinn_fx.errors import DjinnError, InfeasibleError, ModelFailedError
from djinn_fx.reasons import ReasonKind
from djinn_fx.units import format_bytes

log = logging.getLogger("djinn_fx.explain")


#: A model that has to run is run unasked where it is expected to take no more than the first, in a process that gets
#: the second at most.
SMALL_BYTES, LIMIT_BYTES = 10**9, 4 * 10**9


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m djinn_fx.explain",
        description="Find the model in a Python file (which is executed for that), capture it without running it, and "
        "report what djinn decides about it and why.",
        epilog="Exit code: 0 done, 1 djinn failed or the built model differs from eager, 2 usage, 3 no model or "
        "several, 4 the model fails or cannot be captured, 5 a budget cannot be kept. DJINN_DEBUG=1 shows tracebacks.",
    )
    add_model(made)
    add_json(made, "the report")
    made.add_argument("--real", "--build", action="store_true", help="also build it, run it and check it against eager")
    made.add_argument("--training", action="store_true", help="training mode, with the backward graph")
    made.add_argument(
        "--topology", metavar="NAME", help="plan for these devices, which need not be here: a preset or a YAML file"
    )
    made.add_argument("--mode", help="mode= of torch.compile")
    made.add_argument("--values", action="store_true", help=argparse.SUPPRESS)  # real tensors, in a limited process
    add_options(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    return carry_out(parser(), lambda arguments: _run(arguments, words), words, "error")


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    target = json_target(arguments.json)
    from djinn_fx.settings.table import Settings

    options = read_options(arguments.option)
    if arguments.topology is not None:
        options["topology"] = arguments.topology
    settings = Settings.load(arguments.mode, options)
    if arguments.values:
        _limit_memory()

    from djinn_fx.explain.examine import examine
    from djinn_fx.explain.finding.model import find_model
    from djinn_fx.explain.finding.weightless import for_lack_of_values, is_out_of_memory
    from djinn_fx.explain.forms.terminal import print_report

    real, nbytes = arguments.real or arguments.values, 0
    try:
        began = time.perf_counter()
        found = [find_model(arguments.model, fake=not real)]
        nbytes = max(one.faker.nbytes if one.faker is not None else 0 for one in found)
        report = examine(
            found,
            settings,
            build=arguments.real,
            training=arguments.training,
            dynamic=arguments.dynamic,
            find_s=time.perf_counter() - began,
        )
    except DjinnError as error:
        if arguments.values and is_out_of_memory(error):
            more = f"it was run unasked, with {format_bytes(LIMIT_BYTES)} of memory; --real gives it all there is"
            raise ModelFailedError(f"{error}; {more}") from error
        if real or not for_lack_of_values(error) or nbytes > SMALL_BYTES:
            raise
        return _with_values(words)
    needed = nbytes + max((graph.peak_bytes for graph in report.graphs), default=0)
    partial = any(scenario.partial is not None for scenario in report.scenarios)
    if partial and needed <= SMALL_BYTES:
        return _with_values(words)
    target.write(report.to_json())
    if not target.quiet:
        print_report(report, sys.stdout)
    sys.stdout.flush()
    if partial:
        return ModelFailedError.exit_code
    if any(reason.kind == ReasonKind.INFEASIBLE.value for graph in report.graphs for reason in graph.reasons):
        return InfeasibleError.exit_code
    return FOUND_WRONG if any(check.equal is False for check in report.checks) else OK


def _limit_memory() -> None:
    """At most so much for this process, where the system knows such a limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))


def _with_values(words: Sequence[str]) -> int:
    """The same with real tensors, in a process whose memory is limited."""
    log.info("the model asks for values: it is run, with at most %s of memory", format_bytes(LIMIT_BYTES))
    command = [sys.executable, "-m", "djinn_fx.explain", *words, "--values"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    sys.stdout.flush()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
    return child.returncode if child.returncode >= 0 else ModelFailedError.exit_code
