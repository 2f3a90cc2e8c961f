"""The command line of explain."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from djinn_fx.errors import DjinnError, ModelFileError, SettingsError

OK, WRONG_RESULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m djinn_fx.explain",
        description="Find the model in a Python file, capture it, and report what djinn decides about it and why.",
        epilog="Exit code: 0 done, 1 the built model differs from eager, 2 bad input. DJINN_DEBUG=1 shows tracebacks.",
    )
    made.add_argument("model", metavar="model.py[:attr]", help="the file, and which model in it if it holds several")
    made.add_argument("--json", metavar="FILE", help="write the report as JSON; - for stdout, without the text")
    made.add_argument("--build", action="store_true", help="also compile the regions and check against eager")
    made.add_argument("--training", action="store_true", help="training mode, with the backward graph")
    made.add_argument("--dynamic", action="store_true", help="let every size vary")
    made.add_argument("--mode", help="mode= of torch.compile")
    made.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="one of torch.compile's options=; repeatable"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stopped:  # argparse has printed why
        return stopped.code if isinstance(stopped.code, int) else BAD_INPUT
    try:
        return _run(arguments)
    except DjinnError as error:
        if os.environ.get("DJINN_DEBUG") == "1":
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # whoever read stdout has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    target = _json_target(arguments.json)
    from djinn_fx.settings import Settings

    settings = Settings.load(arguments.mode, _options(arguments.option))

    from djinn_fx.explain.examine import examine
    from djinn_fx.explain.find_model import find_model
    from djinn_fx.explain.text import print_report

    found = find_model(arguments.model)
    report = examine(found, settings, build=arguments.build, training=arguments.training, dynamic=arguments.dynamic)
    if target is not None:
        _write(target, report.to_json() + "\n")
    if arguments.json == "-":
        print(report.to_json())
    else:
        print_report(report, sys.stdout)
    sys.stdout.flush()
    return WRONG_RESULT if report.check is not None and report.check.equal is False else OK


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key):
            raise SettingsError(f"--option {pair}: write it as key=value")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise SettingsError(f"--option {pair}: the value cannot be read: {error}") from error
        options[key] = None if value == "none" else value
    return options


def _json_target(name: str | None) -> Path | None:
    """Where to write, checked before any work is done."""
    if name is None or name == "-":
        return None
    target = Path(name)
    if target.is_dir():
        raise ModelFileError(f"--json {name}: is a directory; name a file")
    if not target.absolute().parent.is_dir():
        raise ModelFileError(f"--json {name}: there is no directory {target.absolute().parent}")
    return target


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelFileError(f"--json {target}: cannot be written: {error.strerror}") from error
