"""Which forms are asked for, and where they are written."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from djinn_fx.command_line import FileTarget, file_target
from djinn_fx.errors import SettingsError

if TYPE_CHECKING:
    from djinn_fx.explain.report import Report

#: By flag: who writes the form, and what it is. They are imported when they are asked for.
FORMS = {
    "--html": ("djinn_fx.explain.forms.html.page:to_html", "the report as one page, which needs no network"),
    "--trace": ("djinn_fx.explain.forms.trace:to_trace", "the timeline as a Chrome trace, for Perfetto or speedscope"),
    "--md": ("djinn_fx.explain.forms.markdown:to_markdown", "the report in short as Markdown, for a pull request"),
    "--dot": ("djinn_fx.explain.forms.dot:to_dot", "the graph by region for Graphviz"),
    "--model-explorer": (
        "djinn_fx.explain.forms.model_explorer:to_model_explorer",
        "the graph by region for Model Explorer",
    ),
}


def add_forms(parser: argparse.ArgumentParser) -> None:
    """A flag for each form."""
    for flag, (_, what) in FORMS.items():
        parser.add_argument(flag, metavar="FILE", help=f"write {what}; - for stdout")


@dataclass(frozen=True)
class Forms:
    """Those that are asked for.

    Attributes:
        targets: where to, and who makes them.
        quiet: one goes to standard output, on which nothing else is written then.
    """

    targets: tuple[tuple[FileTarget, Callable[[Report], str]], ...]
    quiet: bool

    def write(self, report: Report) -> None:
        """Write all of them.

        Raises:
            SettingsError: one cannot be written there.
        """
        for target, form in self.targets:
            target.write(form(report))


def asked_for(arguments: argparse.Namespace) -> Forms:
    """What ``--json`` and the flags of :data:`FORMS` ask for, checked before any work is done.

    Raises:
        SettingsError: one cannot be written there, or two go to standard output.
    """
    found: list[tuple[FileTarget, Callable[[Report], str]]] = []
    for flag in ("--json", *FORMS):
        name = vars(arguments)[flag.removeprefix("--").replace("-", "_")]
        if name is not None:
            made_by = FORMS[flag][0] if flag in FORMS else None
            found.append((file_target(flag, name), _maker(made_by) if made_by else _to_json))
    loud = [target.flag for target, _ in found if target.quiet]
    if len(loud) > 1:
        raise SettingsError(f"{' and '.join(loud)}: only one can be written to standard output; name a file")
    return Forms(tuple(found), quiet=bool(loud))


def _to_json(report: Report) -> str:
    return report.to_json()


def _maker(path: str) -> Callable[[Report], str]:
    def make(report: Report) -> str:
        module, _, name = path.partition(":")
        made: str = getattr(import_module(module), name)(report)
        return made

    return make
