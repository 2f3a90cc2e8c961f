"""The command line of explain."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from djinn_fx.command_line import (
    FOUND_WRONG,
    OK,
    add_json,
    add_options,
    carry_out,
    read_options,
)
from djinn_fx.errors import DjinnError, InfeasibleError, ModelFailedError, SettingsError
from djinn_fx.explain.forms.files import add_forms, asked_for
from djinn_fx.reasons import ReasonKind
from djinn_fx.units import format_bytes

if TYPE_CHECKING:
    from djinn_fx.explain.finding.model import FoundModel
    from djinn_fx.explain.finding.typed import TypedInput
    from djinn_fx.explain.gates import Gate
    from djinn_fx.explain.progress import Progress
    from djinn_fx.explain.report import Report
    from djinn_fx.settings.table import Settings

log = logging.getLogger("djinn_fx.explain")


#: A model that has to run is run unasked where it is expected to take no more than the first, in a process that gets
#: the second at most.
SMALL_BYTES, LIMIT_BYTES = 10**9, 4 * 10**9
#: How a command ends whose gate is broken.
GATE_BROKEN = 6


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m djinn_fx.explain",
        description="Find the model in a Python file (which is executed for that), capture it without running it, and "
        "report what djinn decides about it and why.",
        epilog="Exit code: 0 done, 1 djinn failed or the built model differs from eager, 2 usage, 3 no model or "
        "several, 4 the model fails or cannot be captured, 5 a budget cannot be kept, 6 --fail-on, 130 interrupted.",
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "model",
        nargs="?",
        metavar="model.py[:attr]",
        help="the file, or package.module:attr, and which model in it if it holds several",
    )
    what.add_argument(
        "--hf", metavar="ARCH[:KEY=VALUE,...]", help="a Transformers model from its configuration, without weights"
    )
    what.add_argument(
        "--exec", metavar="script.py", help="run a script, its arguments behind --, and report what it compiles"
    )
    made.add_argument("--dynamic", action="store_true", help="let every size vary")
    made.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME:]SIZES[:DTYPE]",
        help="an input by size and type, in the place of the file's: x:batch=1..8x512:int64; repeatable",
    )
    what.add_argument("--compare", nargs=2, metavar="JSON", help="say what differs between two reports of --json")
    add_json(made, "the report")
    add_forms(made)
    made.add_argument("--real", "--build", action="store_true", help="also build it, run it and check it against eager")
    made.add_argument("--training", action="store_true", help="training mode, with the backward graph")
    made.add_argument(
        "--topology", metavar="NAME", help="plan for these devices, which need not be here: a preset or a YAML file"
    )
    made.add_argument("--profile", metavar="DEVICE", help="estimate times for this device: the setting `device`")
    made.add_argument(
        "--memory-budget",
        metavar="SIZE",
        help="bytes it may take: 2GB of the CPU, or cuda:0=8GB; the setting of that name",
    )
    made.add_argument("--mode", help="mode= of torch.compile")
    made.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="GATE",
        help='end with exit code 6 where this holds: "graph-breaks>0", "peak>20GiB", "fallback>0"; repeatable',
    )
    made.add_argument("-v", "--verbose", action="store_true", help="also what is none, and what is decided by routine")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    made.add_argument("--values", action="store_true", help=argparse.SUPPRESS)  # real tensors, in a limited process
    add_options(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, _, rest = _split(words)
    with _debugging("--debug" in own):
        return carry_out(parser(), lambda arguments: _run(arguments, words, rest), own, "error")


def _split(words: list[str]) -> tuple[list[str], str, list[str]]:
    """The command's own words, and behind ``--`` those of a script."""
    if "--" not in words or not any(word.partition("=")[0] == "--exec" for word in words):
        return words, "", []
    place = words.index("--")
    return words[:place], "--", words[place + 1 :]


@contextlib.contextmanager
def _debugging(on: bool) -> Iterator[None]:
    """Tracebacks, in child processes too."""
    before = os.environ.get("DJINN_DEBUG")
    if on:
        os.environ["DJINN_DEBUG"] = "1"
    try:
        yield
    finally:
        if on and before is None:
            del os.environ["DJINN_DEBUG"]
        elif on and before is not None:
            os.environ["DJINN_DEBUG"] = before


def _run(arguments: argparse.Namespace, words: Sequence[str], script_args: Sequence[str]) -> int:
    if arguments.compare is not None:
        return _compare(*arguments.compare)
    forms = asked_for(arguments)
    from djinn_fx.explain.finding.typed import read_typed_input
    from djinn_fx.explain.gates import read_gates
    from djinn_fx.explain.progress import Progress

    settings = _settings(arguments)
    gates, typed = read_gates(arguments.fail_on), [read_typed_input(text) for text in arguments.input]
    if arguments.values:
        _limit_memory()
    with Progress(always=arguments.verbose) as progress:
        report = _report(arguments, settings, typed, script_args, progress)
    if report is None:
        return _with_values(words)
    forms.write(report)
    if not forms.quiet:
        from djinn_fx.explain.forms.terminal import print_report

        print_report(report, sys.stdout, verbose=arguments.verbose)
    sys.stdout.flush()
    return _exit_code(report, gates)


def _settings(arguments: argparse.Namespace) -> Settings:
    from djinn_fx.settings.table import Settings

    options = read_options(arguments.option)
    budget = arguments.memory_budget
    short = {
        "topology": arguments.topology,
        "device": arguments.profile,
        "memory_budget": budget if budget is None or "=" in budget else f"cpu={budget}",
    }
    return Settings.load(arguments.mode, options | {name: value for name, value in short.items() if value is not None})


def _report(
    arguments: argparse.Namespace,
    settings: Settings,
    typed: Sequence[TypedInput],
    script_args: Sequence[str],
    progress: Progress,
) -> Report | None:
    """The report; None: it has to be made once more with values, in a process whose memory is limited."""
    from djinn_fx.explain.examine import examine, examine_script
    from djinn_fx.explain.finding.weightless import for_lack_of_values, is_out_of_memory

    if arguments.exec is not None:
        given = [f"--{name}" for name in ("input", "training", "dynamic") if getattr(arguments, name)]
        if given:
            raise SettingsError(f"{given[0]} does not go with --exec: the script says how its models are called")
        progress.stage(f"running {arguments.exec}")
        words = _to_repeat(arguments)
        return examine_script(arguments.exec, script_args, settings, build=arguments.real, words=words)
    real, nbytes = arguments.real or arguments.values, 0
    began = time.perf_counter()
    try:
        progress.stage(f"finding the model in {arguments.model or arguments.hf}")
        found = _found(arguments, typed, fake=not real)
        nbytes = max(one.faker.nbytes if one.faker is not None else 0 for one in found)
        report = examine(
            found,
            settings,
            build=arguments.real,
            training=arguments.training,
            dynamic=arguments.dynamic,
            find_s=time.perf_counter() - began,
            stage=progress.stage,
            words=_to_repeat(arguments),
        )
    except DjinnError as error:
        if arguments.values and is_out_of_memory(error):
            more = f"it was run unasked, with {format_bytes(LIMIT_BYTES)} of memory; --real gives it all there is"
            raise ModelFailedError(f"{error}; {more}") from error
        if real or not for_lack_of_values(error) or nbytes > SMALL_BYTES:
            raise
        return None
    needed = nbytes + max((graph.peak_bytes for graph in report.graphs), default=0)
    return None if _is_partial(report) and needed <= SMALL_BYTES else report


def _to_repeat(arguments: argparse.Namespace) -> list[str]:
    """The words that the next command needs too; which devices are planned for, a real run cannot choose."""
    words = [word for text in arguments.input for word in ("--input", shlex.quote(text))]
    words += [f"--{name}" for name in ("dynamic", "training") if getattr(arguments, name)]
    words += ["--mode", shlex.quote(arguments.mode)] if arguments.mode is not None else []
    words += [word for text in arguments.option for word in ("--option", shlex.quote(text))]
    budget = arguments.memory_budget
    return words + (["--memory-budget", shlex.quote(budget)] if budget is not None else [])


def _found(arguments: argparse.Namespace, typed: Sequence[TypedInput], *, fake: bool) -> list[FoundModel]:
    if arguments.hf is not None:
        from djinn_fx.explain.finding.transformers_config import find_transformer

        return find_transformer(arguments.hf, fake=fake, typed=typed)
    from djinn_fx.explain.finding.model import find_scenarios

    return find_scenarios(arguments.model, fake=fake, typed=typed)


def _is_partial(report: Report) -> bool:
    return any(scenario.partial is not None for scenario in report.scenarios)


def _exit_code(report: Report, gates: Sequence[Gate]) -> int:
    """The worst there is to say."""
    if _is_partial(report) or any(scenario.failed is not None for scenario in report.scenarios):
        return ModelFailedError.exit_code
    if any(reason.kind == ReasonKind.INFEASIBLE.value for graph in report.graphs for reason in graph.reasons):
        return InfeasibleError.exit_code
    if any(check.equal is False for check in report.checks):
        return FOUND_WRONG
    broken = [text for gate in gates if (text := gate.broken_by(report)) is not None]
    for text in broken:
        print(f"--fail-on {text}", file=sys.stderr)
    return GATE_BROKEN if broken else OK


def _compare(before: str, after: str) -> int:
    from djinn_fx.explain.compare import comparison, read_report

    print(comparison(read_report(before), read_report(after)))
    return OK


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
