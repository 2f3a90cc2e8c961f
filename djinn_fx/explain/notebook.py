"""``djinn_fx.explain(model, *args)``: the same report in Python, shown by a notebook as a page."""

from __future__ import annotations

import contextlib
import html
import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_fx.compiling.capture import buffers_kept
from djinn_fx.errors import ModelFileError
from djinn_fx.explain.examine import examine
from djinn_fx.explain.finding.inputs import call_text, signature_of
from djinn_fx.explain.finding.model import FoundModel
from djinn_fx.explain.finding.targets import unwrap
from djinn_fx.explain.forms.html.page import to_html
from djinn_fx.explain.forms.terminal import print_report
from djinn_fx.explain.gather import name_of
from djinn_fx.explain.report import Report
from djinn_fx.settings.table import Settings

#: The page has styles and a script of its own, which must not be the notebook's.
_FRAME = "width: 100%; height: 50em; border: 0"


@dataclass(frozen=True, kw_only=True, repr=False)
class ShownReport(Report):
    """A report that shows itself: as a page in a notebook, else as text."""

    def __repr__(self) -> str:
        buffer = io.StringIO()
        print_report(self, buffer)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        page = html.escape(to_html(self))
        return f'<iframe title="What djinn decided" srcdoc="{page}" style="{_FRAME}"></iframe>'


def explain(model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ShownReport:
    """Capture a model with these arguments and report what djinn decides about it and why.

    It runs once, on its own ops. What torch.compile has compiled in this process is forgotten. The model's buffers, its
    mode and its arguments stay as they are; in training mode, with gradients on, its backward graph is reported too.

    Args:
        model: a module or a function of tensors; of what torch.compile returned, what was given to it.
        args: of one call.
        kwargs: of one call.

    Raises:
        ModelFileError: the arguments do not fit.
        ModelFailedError: the model fails or cannot be captured.
        SettingsError: a setting is wrong; they are read as for ``torch.compile``.
    """
    model = unwrap(model)
    signature = signature_of(model)
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ModelFileError(f"the arguments do not fit {call_text(model)}: {error}") from error
    name = name_of(model, "model")
    path = _source(model)
    found = FoundModel(
        module=model,
        args=args,
        kwargs=kwargs,
        rule="given in Python",
        made="given in Python",
        given="given in Python",
        attr=name,
        file=str(path),
        path=path,
    )
    training = isinstance(model, nn.Module) and model.training and torch.is_grad_enabled()
    with _left_as_it_is(model):
        report = examine([found], Settings.load(), training=training)
    # No command gives this report again.
    told = replace(report, model=replace(report.model, file="", attr=""))
    return ShownReport(**{field.name: getattr(told, field.name) for field in fields(told)})


def _source(model: Callable[..., Any]) -> Path:
    """The file in which it is defined, as Python calls it."""
    defined = type(model) if isinstance(model, nn.Module) else inspect.unwrap(model)
    try:
        return Path(inspect.getfile(defined))
    except (TypeError, OSError):  # built in, or typed at a prompt
        return Path("<python>")


@contextlib.contextmanager
def _left_as_it_is(model: Callable[..., Any]) -> Iterator[None]:
    """Put modes, buffers and the generator of random numbers back."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        with buffers_kept(model), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training
