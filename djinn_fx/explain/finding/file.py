"""Load a user's Python file as a module, and turn what goes wrong in it into one clear error."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import linecache
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from djinn_fx.errors import DjinnError, ModelFailedError, ModelFileError

#: How every command begins that is given to be copied.
COMMAND = "python -m djinn_fx.explain"
_SPEC = re.compile(r"(?P<path>.+):(?P<attr>[^\W\d]\w*(?:\.\w+)*)")


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """A loaded user file.

    Attributes:
        shown: the path as the user wrote it, for messages.
        path: absolute path.
        module: the executed module; its name is unique and in ``sys.modules``.
    """

    shown: str
    path: Path
    module: ModuleType

    @property
    def names(self) -> dict[str, object]:
        """The file's public names, in the order of their definition."""
        return {name: value for name, value in vars(self.module).items() if not name.startswith("_")}


def split_spec(spec: str) -> tuple[str, str | None]:
    """Split ``"model.py:attr"`` into path and attribute; the attribute is None if there is none."""
    match = _SPEC.fullmatch(spec)
    if match is None or Path(spec).exists():
        return spec, None
    return match["path"], match["attr"]


def is_import_path(shown: str) -> bool:
    """Whether it names a module, as ``package.module``, and no file."""
    return all(part.isidentifier() for part in shown.split(".")) and not shown.endswith(".py")


def import_user_module(shown: str) -> UserFile:
    """Import a module by its name, with the working folder on the path.

    Raises:
        ModelFileError: there is none of this name, or it has no Python file.
        ModelFailedError: its code raises.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with user_code(shown, Path(shown), "importing the module"):  # which imports the packages that it is in
        spec = _spec_of(shown)
    if spec is None or spec.origin is None:
        raise ModelFileError(f"{shown}: there is no such module or file (looked on Python's path and in {here})")
    path = Path(spec.origin)
    if path.suffix != ".py":
        raise ModelFileError(f"{shown}: is not written in Python; give a module that defines the model")
    with contextlib.redirect_stdout(sys.stderr), user_code(shown, path, "importing the module"):
        module = importlib.import_module(shown)
    return UserFile(shown=shown, path=path, module=module)


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


def as_command(shown: str, attr: str, *words: str) -> str:
    """The command that explains a model, to be copied.

    Args:
        shown: the file, as the user wrote it, or an option in its place.
        attr: the model in it; empty behind an option.
        words: further ones.
    """
    if not attr:
        return " ".join([COMMAND, *words, shown])
    return " ".join([COMMAND, shlex.quote(f"{shown}:{attr}"), *words])


def load_user_file(shown: str) -> UserFile:
    """Execute the file as a module (not as ``__main__``).

    Raises:
        ModelFileError: no such file.
        ModelFailedError: not Python, or its code raises; the message names the user's file:line.
    """
    path = checked_path(shown)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise ModelFileError(f"{shown}: cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise ModelFailedError(f"{_syntax_line(error, shown)}: {type(error).__name__}: {first_line(error)}") from error
    linecache.checkcache(str(path))
    _, package = _package_of(path)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"djinn_user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    module_spec = spec_from_file_location(f"{package}.{name}" if package else name, path)
    assert module_spec is not None
    module = module_from_spec(module_spec)
    sys.modules[module.__name__] = module
    try:
        with beside(path), user_code(shown, path, "loading the file"):
            exec(code, module.__dict__)
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    return UserFile(shown=shown, path=path, module=module)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[None]:
    """Run as the user's file would: its folder first on ``sys.path``, ``sys.argv`` only the file.

    What it prints goes to stderr, so that a report on stdout stays clean.
    """
    root, package = _package_of(path)
    folders = [str(root), str(path.parent)] if package else [str(path.parent)]
    saved_argv = sys.argv
    sys.path[:0] = folders
    sys.argv = [str(path)]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = saved_argv
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


@contextlib.contextmanager
def user_code(shown: str, path: Path, doing: str) -> Iterator[None]:
    """Turn any exception of the user's code into a ModelFailedError that names the user's line."""
    try:
        yield
    except DjinnError:
        raise
    except SystemExit as error:
        where = user_line(error, path, shown) or shown
        raise ModelFailedError(
            f"{where}: the file calls sys.exit({error.code!r}) while {doing}; "
            'put what is not the model under if __name__ == "__main__":'
        ) from error
    except SyntaxError as error:  # of a module that the file imports
        raise ModelFailedError(f"{_syntax_line(error, shown)}: SyntaxError: {error.msg} (while {doing})") from error
    except Exception as error:
        where = user_line(error, path, shown) or shown
        message = f"{where}: {type(error).__name__}: {first_line(error)} (while {doing})"
        if isinstance(error, ModuleNotFoundError) and error.name:
            message += _missing(error.name)
        raise ModelFailedError(message) from error


def _missing(name: str) -> str:
    """What to do about a module that is not there: its package may be, in a release without it."""
    package, _, inner = name.partition(".")
    if inner and find_spec(package) is not None:
        with contextlib.suppress(PackageNotFoundError):
            return f"; {package} {version(package)} is installed and has no such module: the file wants another release"
        return f"; {package} is here, and has no such module: correct the import"
    return f"; install {package!r} for {sys.executable}, or correct the import"


def user_line(error: BaseException, path: Path, shown: str) -> str | None:
    """``file:line`` of the innermost frame inside the user's file; None if it is in no frame."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename) == path:
            return f"{shown}:{frame.lineno}"
    return None


def checked_path(shown: str) -> Path:
    """The file, absolute.

    Raises:
        ModelFileError: there is no such Python file.
    """
    path = Path(shown).absolute()
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.py"))[:5]
        hint = f"name a file in it, e.g. {Path(shown) / files[0]}" if files else "there is no .py file in it"
        raise ModelFileError(f"{shown}: is a directory; {hint}")
    if not path.exists():
        raise ModelFileError(f"{shown}: no such file (looked in {path.parent})")
    if path.suffix != ".py":
        raise ModelFileError(f"{shown}: is not a Python file; give a .py file that defines the model")
    return path.resolve()


def _package_of(path: Path) -> tuple[Path, str]:
    """The folder above the outermost package the file is in, and that package's dotted name ("" if none)."""
    folder = path.parent
    parts: list[str] = []
    while (folder / "__init__.py").exists() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _syntax_line(error: SyntaxError | ValueError, shown: str) -> str:
    line = getattr(error, "lineno", None)
    name = getattr(error, "filename", None)
    if name and Path(name).name != Path(shown).name:
        shown = str(name)
    return f"{shown}:{line}" if line else shown


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].strip() if lines else "(no message)"
