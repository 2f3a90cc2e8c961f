"""``djinn cache``: list the disk cache, say why a key missed, check, empty, and carry it to another machine."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from djinn_fx.cli.table import on_one_line, print_table
from djinn_fx.errors import StoreError
from djinn_fx.files.signing import signer
from djinn_fx.settings.table import Settings
from djinn_fx.store.bundle import ALREADY_STORED, export_bundle, import_bundle, import_folder
from djinn_fx.store.store import EntryInfo, FieldDifference, Store, difference, nearest
from djinn_fx.units import format_bytes

OK, FOUND_WRONG = 0, 1
LAST_MISS = "last-miss"
#: A changed op changes every later edge of a canonical form; the first lines tell the cause.
MAX_CANONICAL_ROWS = 20
#: Values are shown whole unless they are containers; a whole op or region on one line helps nobody.
MAX_CONTAINER_CHARS = 160


def add_parser(commands: Any) -> None:
    """Add ``cache`` and its subcommands to argparse's subparsers."""
    cache = commands.add_parser("cache", help="look after the disk cache of compiled regions")
    actions = cache.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)
        action.add_argument("--dir", type=Path, metavar="DIR", help="the cache directory; default: as in the settings")
        action.set_defaults(run=run)
        return action

    add("ls", _ls, "list the entries, last used first")
    why = add("why", _why, "say in which fields a key differs from the nearest stored one")
    keys = f"a key, a region's hash, the beginning of one, or {LAST_MISS}: the key that missed last"
    why.add_argument("key", metavar="KEY", help=keys)
    verify = add("verify", _verify, "read every entry and list the damaged ones (exit code 1 if any stays)")
    verify.add_argument("--remove", action="store_true", help="delete the damaged entries")
    clear = add("clear", _clear, "delete all entries")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    export = add("export", _export, "write all entries to a bundle, a plain tar file")
    export.add_argument("file", type=Path, metavar="FILE")
    import_ = add(
        "import",
        _import,
        "store and sign the entries of a bundle, or of another cache directory. Entries are code that will be run: "
        "only from whom you trust",
    )
    import_.add_argument("file", type=Path, metavar="FILE")


def _ls(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    entries = store.entries()
    rows = [
        (
            entry.key[:12] if sys.stdout.isatty() else entry.key,  # whole where a script may read it
            format_bytes(entry.nbytes),
            _when(entry.mtime),
            _text(entry.header.get("engine", "")),
            _holds(entry),
        )
        for entry in entries
    ]
    if rows:
        print_table(("key", "size", "last used", "engine", "label"), rows)
    total = format_bytes(sum(entry.nbytes for entry in entries))
    print(f"{_count(len(entries), 'entry', 'entries')}, {total} of {format_bytes(store.limit_bytes)} in {store.root}")
    _tell_foreign(store)
    return OK


#: What an entry holds that is no engine's artefact, before its label.
_WHAT = {"times": "times of ", "decision": "outcome of a trial: ", "graph": "kept graph: "}


def _holds(entry: EntryInfo) -> str:
    return _WHAT.get(str(entry.header.get("what", "")), "") + _text(entry.header.get("label", ""))


def _tell_foreign(store: Store) -> None:
    """Entries that somebody else wrote, of which nothing is shown or used."""
    _tell_alone()
    foreign = store.foreign()
    if foreign:
        first = next(iter(foreign.values()))
        print(
            f"{_count(len(foreign), 'entry is', 'entries are')} not used: {first}. To take them in, if you trust who "
            f"wrote them: djinn cache import {shlex.quote(str(store.root))}"
        )


def _tell_alone() -> None:
    """That nothing which this process writes is of use to another, if that is so."""
    alone = signer().reason
    if alone is not None:
        print(alone.detail)


@dataclass(frozen=True)
class _Asked:
    """The key ``why`` is about."""

    key: str
    what: str
    fields: Any
    canonical: Any


def _why(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    entries = store.entries()
    asked = _asked(store, entries, arguments.key)
    print(f"{asked.what}: {asked.key}")
    foreign = store.foreign()
    if asked.key in foreign:
        print(f"an entry of this key is there, but it is not used: {foreign[asked.key]}")
    # A key that missed is usually stored by now: compared with itself it would differ in nothing.
    found = nearest(asked.fields, [entry for entry in entries if entry.key != asked.key], asked.canonical)
    if asked.fields is None or found is None:
        print("no other entry with recorded fields is stored, so there is nothing to compare it with")
        return OK
    entry, differences = found
    label = _text(entry.header.get("label", ""))
    print(f"nearest stored entry: {entry.key} {label}, last used {_when(entry.mtime)}")
    inner = _canonical_differences(asked, entry)
    rows = [_row("", item) for item in differences] + [_row("canonical.", item) for item in inner[:MAX_CANONICAL_ROWS]]
    if rows:
        print_table(("field", "this key", "stored"), rows)
    else:
        print("all recorded fields are equal: the keys differ in something that is not recorded")
    if len(inner) > MAX_CANONICAL_ROWS:
        print(f"... and {len(inner) - MAX_CANONICAL_ROWS} more places in the canonical form")
    return OK


def _asked(store: Store, entries: Sequence[EntryInfo], word: str) -> _Asked:
    """What the user asked about: the last miss, or the one entry whose key begins so."""
    miss = store.read_last_miss()
    matches = [entry for entry in entries if word and entry.key.startswith(word.lower())]
    if miss is not None and (word == LAST_MISS or (not matches and word == miss.key)):
        return _Asked(miss.key, f"missed {_when(miss.time_s)}", miss.fields, miss.canonical)
    if word == LAST_MISS:
        raise StoreError(f"no miss is on record in {store.root}: nothing was looked up there in vain")
    foreign = [(key, why) for key, why in store.foreign().items() if word and key.startswith(word.lower())]
    if not matches:
        matches = [entry for entry in entries if word and _region_of(entry).startswith(word.lower())]
    if not matches and foreign:
        return _Asked(foreign[0][0], "looked for", None, None)
    if not matches:
        raise StoreError(
            f"no entry in {store.root} has a key that begins with {word!r}, and none is for a region of such a hash; "
            "`djinn cache ls` lists them"
        )
    if len(matches) > 1:
        some = ", ".join(f"{entry.key[:12]} {entry.header.get('engine', '')}".rstrip() for entry in matches[:5])
        raise StoreError(f"{len(matches)} entries have a key, or a region's hash, that begins with {word!r}: {some}")
    (entry,) = matches
    return _Asked(
        entry.key,
        f"entry {_text(entry.header.get('label', ''))}",
        entry.header.get("fields"),
        entry.header.get("canonical"),
    )


def _region_of(entry: EntryInfo) -> str:
    """The structural hash of the region that it was built for; empty if none is on record."""
    fields = entry.header.get("fields")
    return str(fields.get("structural_hash", "")) if isinstance(fields, dict) else ""


def _canonical_differences(asked: _Asked, entry: EntryInfo) -> list[FieldDifference]:
    stored = entry.header.get("canonical")
    if asked.canonical is None or stored is None:
        return []
    return difference(asked.canonical, stored)


def _verify(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    problems = store.verify(remove=arguments.remove)
    if problems:
        print_table(("entry", "problem"), problems)
    left = [name for name, _ in problems if (store.root / "entries" / name).exists()]
    gone = f", {len(problems) - len(left)} removed" if arguments.remove else ""
    print(f"{_count(len(problems), 'problem', 'problems')}{gone} in {store.root}")
    return FOUND_WRONG if left else OK


def _clear(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    if not arguments.yes and not _agreed(f"Delete all entries in {store.root}? [y/N] "):
        raise StoreError("nothing was deleted; --yes deletes without asking")
    print(f"{_count(store.clear(), 'entry', 'entries')} deleted from {store.root}")
    return OK


def _agreed(question: str) -> bool:
    """The user's answer; no if nobody is there to answer."""
    if not sys.stdin.isatty():
        return False
    print(question, end="", flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _export(arguments: argparse.Namespace) -> int:
    count = export_bundle(_store(arguments), arguments.file)
    print(f"{_count(count, 'entry', 'entries')} written to {arguments.file}")
    return OK


def _import(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    take = import_folder if arguments.file.is_dir() else import_bundle
    imported, skipped = take(store, arguments.file)
    if skipped:
        print_table(("skipped", "why"), skipped)
    print(f"{_count(imported, 'entry', 'entries')} imported into {store.root}, {len(skipped)} skipped")
    _tell_alone()
    return FOUND_WRONG if any(why != ALREADY_STORED for _, why in skipped) else OK


def _store(arguments: argparse.Namespace) -> Store:
    """The cache that compiling would use from here, or the one named by ``--dir``."""
    # What the store logs on the way, the commands say themselves; without a handler Python would print it as well.
    logging.getLogger("djinn_fx.store").addHandler(logging.NullHandler())
    settings = Settings.load()
    chosen = arguments.dir or settings.cache_folder
    # Where compiling keeps nothing, the commands still must not take everything for too much.
    limit = (settings if settings.cache else Settings()).cache_limit_bytes
    return Store(chosen.expanduser().absolute(), limit)


def _row(prefix: str, item: FieldDifference) -> tuple[str, str, str]:
    return (prefix + item.path or "(all)", _value(item.mine), _value(item.stored))


def _value(value: Any) -> str:
    """A JSON value on one line; containers are cut short."""
    if not isinstance(value, (dict, list)):
        return _text(value)
    text = json.dumps(value)
    return text if len(text) <= MAX_CONTAINER_CHARS else text[:MAX_CONTAINER_CHARS] + "..."


def _text(value: Any) -> str:
    """A value on one line, as it is written in JSON if it is no text."""
    # null and true as they are written in the header
    text = json.dumps(value) if isinstance(value, (bool, int, float, type(None))) else str(value)
    return on_one_line(text)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
