"""The command line of explain."""

from __future__ import annotations

import argparse
import sys
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


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m djinn_fx.explain",
        description="Find the model in a Python file, capture it, and report what djinn decides about it and why.",
        epilog="Exit code: 0 done, 1 the built model differs from eager, 2 bad input. DJINN_DEBUG=1 shows tracebacks.",
    )
    add_model(made)
    add_json(made, "the report")
    made.add_argument("--build", action="store_true", help="also compile the regions and check against eager")
    made.add_argument("--training", action="store_true", help="training mode, with the backward graph")
    made.add_argument(
        "--topology", metavar="NAME", help="plan for these devices, which need not be here: a preset or a YAML file"
    )
    made.add_argument("--mode", help="mode= of torch.compile")
    add_options(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return carry_out(parser(), _run, argv, "error")


def _run(arguments: argparse.Namespace) -> int:
    target = json_target(arguments.json)
    from djinn_fx.settings.table import Settings

    options = read_options(arguments.option)
    if arguments.topology is not None:
        options["topology"] = arguments.topology
    settings = Settings.load(arguments.mode, options)

    from djinn_fx.explain.examine import examine
    from djinn_fx.explain.finding.model import find_model
    from djinn_fx.explain.text import print_report

    found = find_model(arguments.model)
    report = examine(found, settings, build=arguments.build, training=arguments.training, dynamic=arguments.dynamic)
    target.write(report.to_json())
    if not target.quiet:
        print_report(report, sys.stdout)
    sys.stdout.flush()
    return FOUND_WRONG if report.check is not None and report.check.equal is False else OK
