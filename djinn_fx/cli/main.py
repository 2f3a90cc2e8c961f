"""The command ``djinn``. Cheap to start: torch is imported only by what needs it."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from djinn_fx.cli import cache as cache_cli
from djinn_fx.cli import sessions as sessions_cli
from djinn_fx.errors import DjinnError
from djinn_fx.version import VERSION

BAD_INPUT, INTERRUPTED = 2, 130

#: Commands that read their own arguments and need torch: the module whose ``main`` carries them out, and what for.
WITH_TORCH = {
    "explain": ("djinn_fx.explain.__main__", "report what djinn decides about a model, and why"),
    "calibrate": ("djinn_fx.cli.calibrate", "measure this machine, so that the cost model knows its times"),
    "tune": ("djinn_fx.cli.tune", "try the engines on a model and remember the fastest"),
    "build": ("djinn_fx.cli.build", "build a model's TensorRT plans for a GPU, here or elsewhere"),
    "deploy": ("djinn_fx.deploy.command", "plan which model lives on which device, for workflows of several models"),
    "workers": ("djinn_fx.cli.workers", "show the workers on a Ray, what they hold and what went there"),
    "worker": ("djinn_fx.cli.worker", "show all that one worker on a Ray tells of itself"),
    "repro": ("djinn_fx.cli.repro", "run a region alone whose engine gave a wrong answer, and compare"),
}


def parser() -> argparse.ArgumentParser:
    """The arguments of every subcommand but those that read their own."""
    made = argparse.ArgumentParser(
        prog="djinn",
        description="The torch.compile backend djinn: look after its cache, ask it what it decides and why.",
        epilog="Exit code: 0 done, 1 something was found wrong, 2 the command could not be carried out.",
    )
    made.add_argument("--version", action="version", version=f"djinn-fx {VERSION}")
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    cache_cli.add_parser(commands)
    sessions_cli.add_parser(commands)
    for name, (_, purpose) in WITH_TORCH.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What goes wrong is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label may hold what the terminal's encoding lacks
    try:
        if words and words[0] in WITH_TORCH:
            return _with_torch(words[0], words[1:])
        arguments = parser().parse_args(words)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stopped:  # argparse has printed why, or the help
        return stopped.code if isinstance(stopped.code, int) else BAD_INPUT
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DjinnError as error:
        print(f"djinn: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"djinn: {what}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("djinn: interrupted", file=sys.stderr)
        return INTERRUPTED


def _with_torch(command: str, words: list[str]) -> int:
    try:
        module = importlib.import_module(WITH_TORCH[command][0])
    except ModuleNotFoundError as error:
        return _without_torch(command, error)
    code: int = module.main(words)
    return code


def _without_torch(command: str, error: ModuleNotFoundError) -> int:
    if error.name != "torch":
        raise error
    print(f"djinn: {command} needs torch, which is not installed here: pip install torch", file=sys.stderr)
    return BAD_INPUT
