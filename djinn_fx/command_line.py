"""What the commands share: how they end, how they read ``--option`` and ``--json``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from djinn_fx.errors import DjinnError, SettingsError

#: Exit codes; each command gives the second its own meaning.
OK, FOUND_WRONG, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def carry_out(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None, error: str
) -> int:
    """Parse the words and run the command; what goes wrong is one message on stderr after ``error``."""
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stopped:  # argparse has printed why
        return stopped.code if isinstance(stopped.code, int) else BAD_INPUT
    try:
        return run(arguments)
    except DjinnError as problem:
        if os.environ.get("DJINN_DEBUG") == "1":
            traceback.print_exc()
        print(f"{error}: {problem}", file=sys.stderr)
        return problem.exit_code
    except BrokenPipeError:  # whoever read stdout has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model's file, and ``--dynamic``."""
    parser.add_argument("model", metavar="model.py[:attr]", help="the file, and which model in it if it holds several")
    parser.add_argument("--dynamic", action="store_true", help="let every size vary")


def add_json(parser: argparse.ArgumentParser, what: str = "the outcome") -> None:
    """``--json FILE``."""
    parser.add_argument("--json", metavar="FILE", help=f"write {what} as JSON; - for stdout, without the text")


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--option KEY=VALUE``."""
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="one of torch.compile's options=; repeatable"
    )


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs as ``options=``: words as the setting's type says, lists as YAML.

    Raises:
        SettingsError: a pair is none, or its value cannot be read.
    """
    from djinn_fx.settings.sources import read_word
    from djinn_fx.settings.table import Settings

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key):
            raise SettingsError(f"--option {pair}: write it as key=value")
        options[key] = read_word(key, text, Settings.model_fields, f"--option {pair:.80}") if text else ""
    return options


@dataclass(frozen=True)
class FileTarget:
    """Where something is to be written.

    Attributes:
        flag: which asked for it.
        path: a file; None: nowhere, or standard output.
        quiet: it is standard output, on which nothing else is written then.
    """

    flag: str
    path: Path | None
    quiet: bool

    def write(self, text: str) -> None:
        """Write it, if it is asked for.

        Raises:
            SettingsError: it cannot be written there.
        """
        if self.quiet:
            print(text)
        if self.path is None:
            return
        try:
            self.path.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{self.flag} {self.path}: cannot be written: {error.strerror}") from error


def json_target(name: str | None) -> FileTarget:
    """What follows ``--json``, checked as by :func:`file_target`."""
    return file_target("--json", name)


def file_target(flag: str, name: str | None) -> FileTarget:
    """What follows a flag that takes a file, or - for standard output; checked before any work is done.

    Raises:
        SettingsError: it cannot be written there.
    """
    if name is None or name == "-":
        return FileTarget(flag, None, quiet=name == "-")
    target = Path(name)
    if target.is_dir():
        raise SettingsError(f"{flag} {name}: is a directory; name a file")
    if not target.absolute().parent.is_dir():
        raise SettingsError(f"{flag} {name}: there is no directory {target.absolute().parent}")
    return FileTarget(flag, target, quiet=False)
