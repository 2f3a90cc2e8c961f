"""``djinn calibrate``: measure how fast the engines are on this machine, and keep what follows for the cost model.

What is written is used by itself from then on, until the machine or a library's version changes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from djinn_fx.calibrate.run import Measured, Request, calibrate, installed_engines, usual_threads
from djinn_fx.calibrate.run import Progress as Step
from djinn_fx.command_line import FOUND_WRONG, OK, FileTarget, add_json, carry_out, json_target
from djinn_fx.costmodels.profile import PROFILE_FILE, Profile, conditions, profile_folder, read_profile
from djinn_fx.errors import EngineError, SettingsError
from djinn_fx.settings.table import ENGINE_NAMES

SCHEMA = "djinn-calibrate/1"
#: Seconds that measuring may take: the short list, and all of it.
SHORT_S, LONG_S = 45.0, 900.0
#: Each case is measured by this many processes, one after the other, where time is taken.
LONG_ROUNDS = 3


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="djinn calibrate",
        description="Measure how fast the engines are on this machine; the cost model uses it from then on.",
        epilog="Exit code: 0 a profile is kept, 1 some cases failed or --show finds no profile to use, 2 bad input. "
        "Nothing else should run meanwhile: what is measured beside other work is wrong.",
    )
    made.add_argument("--long", action="store_true", help="the whole list, by several processes: a quarter of an hour")
    made.add_argument(
        "--seconds", type=float, metavar="S", help="for measuring (45; with --long 900); the rest is left"
    )
    made.add_argument("--engines", metavar="A,B", help="the engines to measure; default: all that are installed")
    again = made.add_mutually_exclusive_group()
    again.add_argument(
        "--fresh", action="store_true", help="forget what an earlier run, stopped half-way, has measured"
    )
    again.add_argument(
        "--resume", action="store_true", help="fail if there is no run to go on with (going on is the default)"
    )
    made.add_argument("--show", action="store_true", help="measure nothing: say what profile there is")
    made.add_argument(
        "--cache-dir", metavar="DIR", help="where the profile goes; default: the setting's, see docs/settings.md"
    )
    add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return carry_out(parser(), _run, argv, "djinn calibrate")


def _run(arguments: argparse.Namespace) -> int:
    target = json_target(arguments.json)
    folder = profile_folder(arguments.cache_dir)
    if arguments.show:
        return _show(folder, target)
    request = request_of(arguments, folder)
    if not target.quiet:
        print(f"{', '.join(request.engines)}; {_counted(request.threads)}; up to {request.seconds:.0f} s", flush=True)
    try:
        with _bar(target.quiet) as tell:
            profile, measured = calibrate(request, tell)
    except ValueError as error:
        raise EngineError(f"no profile could be made: {error}; give more --seconds, or other --engines") from error
    told = json.dumps({"schema": SCHEMA, "path": str(folder / PROFILE_FILE), **outcome(profile, measured)}, indent=1)
    target.write(told)
    if not target.quiet:
        print("\n".join(lines_of(profile, measured, folder / PROFILE_FILE)))
    return FOUND_WRONG if measured.failed else OK


def request_of(arguments: argparse.Namespace, folder: Path) -> Request:
    """What the words ask for.

    Raises:
        SettingsError: an engine is unknown or not installed, or there is nothing to go on with.
    """
    from djinn_fx.calibrate.journal import FILE

    if arguments.resume and not (folder / FILE).exists():
        raise SettingsError(f"--resume: there is no stopped run in {folder}")
    seconds = arguments.seconds if arguments.seconds is not None else (LONG_S if arguments.long else SHORT_S)
    if not seconds > 0:
        raise SettingsError(f"--seconds {seconds:g}: must be more than 0")
    return Request(
        folder=folder,
        seconds=seconds,
        engines=_engines(arguments.engines),
        threads=usual_threads(),
        quick=not arguments.long,
        rounds=LONG_ROUNDS if arguments.long else 1,
        fresh=arguments.fresh,
    )


def _engines(given: str | None) -> tuple[str, ...]:
    if given is None:
        return installed_engines()
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    unknown = [name for name in names if name not in ENGINE_NAMES]
    if unknown or not names:
        raise SettingsError(f"--engines {given}: known engines are {', '.join(ENGINE_NAMES)}")
    missing = [name for name in names if name not in installed_engines(names)]
    if missing:
        raise SettingsError(f"--engines {given}: {', '.join(missing)} cannot run here; `djinn explain` says why")
    return names


class _bar:  # noqa: N801  (used as a function)
    """A progress bar on stderr while it is a terminal; gives the function that moves it."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)

    def __enter__(self) -> Callable[[Step], None]:
        self._bar.start()
        row = self._bar.add_task("calibrating", total=None)

        def tell(step: Step) -> None:
            self._bar.update(row, total=step.total, completed=step.done, description=f"{step.label:.56}")

        return tell

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def outcome(profile: Profile, measured: Measured) -> dict[str, Any]:
    """For programs."""
    engines: dict[str, int] = {}
    for sample in measured.samples:
        engines[sample.engine] = engines.get(sample.engine, 0) + 1
    return {
        "made": profile.made,
        "machine": dict(profile.machine),
        "versions": dict(profile.versions),
        "threads": list(profile.threads),
        "samples": engines,
        "noise": dict(profile.noise),
        "refused": dict(measured.refused),
        "failed": dict(measured.failed),
        "left": measured.left,
        "resumed": measured.resumed,
    }


def lines_of(profile: Profile, measured: Measured, path: Path) -> list[str]:
    """For people."""
    told = outcome(profile, measured)
    lines = [", ".join(f"{engine}: {count} samples" for engine, count in told["samples"].items())]
    lines.append(_noise_line(profile))
    if measured.resumed:
        lines.append(f"{measured.resumed} of them were measured by the run that was stopped")
    if measured.refused:
        lines.append(f"{len(measured.refused)} cases are not for their engine")
    lines += [f"failed: {task}: {why}" for task, why in measured.failed.items()]
    if measured.left:
        lines.append(f"{measured.left} cases are left for want of time: run it again to go on, or give more --seconds")
    lines.append(f"written: {path}")
    return lines


def _noise_line(profile: Profile) -> str:
    noise = profile.noise
    parts = [f"{noise['within']:.1%} within a process"] if "within" in noise else []
    if "between" in noise:
        parts.append(f"{noise['between']:.1%} between processes (nine tenths: {noise['between_p90']:.1%})")
    return "noise: " + (", ".join(parts) or "not measured")


def _counted(threads: Sequence[int]) -> str:
    return " and ".join(f"{count} thread{'s' if count > 1 else ''}" for count in threads)


def _show(folder: Path, target: FileTarget) -> int:
    """Say what profile there is, and whether it is used."""
    here = conditions(usual_threads()[0])
    found, anywhere = read_profile(folder, here), read_profile(folder).profile
    told = {
        "schema": SCHEMA,
        "path": str(found.path),
        "used": found.profile is not None,
        "problem": found.problem,
        "made": anywhere.made if anywhere is not None else None,
        "noise": dict(anywhere.noise) if anywhere is not None else None,
        "samples": anywhere.samples if anywhere is not None else 0,
    }
    target.write(json.dumps(told, indent=1))
    if not target.quiet:
        print("\n".join(_shown(found.problem, anywhere, found.path)))
    return OK if found.profile is not None else FOUND_WRONG


def _shown(problem: str | None, profile: Profile | None, path: Path) -> list[str]:
    if profile is None:
        return [problem or f"no profile yet ({path}): run `djinn calibrate`"]
    versions = ", ".join(f"{name} {version}" for name, version in profile.versions.items())
    lines = [
        f"{path}",
        f"made {profile.made} of {profile.samples} samples, {_counted(profile.threads)}; {versions}",
        _noise_line(profile),
    ]
    return [*lines, problem or "it is used"]


if __name__ == "__main__":
    raise SystemExit(main())
