"""The user's key: by it a process knows what this user's processes wrote.

What lies in the cache folder is code, or decides what runs, and a ``djinn.yaml`` in a folder that somebody else made
may name the cache folder. So everything there is signed with a key that lies elsewhere: 32 random bytes in
``keys/cache.key`` in the user's own configuration folder, which only the environment can move (``DJINN_CONFIG_DIR``).
What is signed with another key, or not at all, is as good as not there.

Where no key can be kept (a home that cannot be written), each process has one of its own and reads what it wrote.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from djinn_fx.errors import StoreError
from djinn_fx.files.private import default_config_dir, own_folder
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.threads import new_lock

log = logging.getLogger("djinn_fx.store")

FOLDER, FILE = "keys", "cache.key"
SIGNATURE_BYTES = hashlib.sha256().digest_size
_KEY_BYTES = 32
_TEXT = re.compile(rb"[0-9a-f]{64}\n")
_TEXT_BYTES = 2 * _KEY_BYTES + 1
#: How often, and how long apart, a key is looked at that somebody is just writing (only where there are no hard links).
_LOOKS, _PAUSE_S = 50, 0.02
_SEALED = re.compile(rb'\{"sha256": "([0-9a-f]{64})", "signature": "([0-9a-f]{64})", "content": ')
_SEAL_END = b"}\n"


class NotOurs(ValueError):
    """Whole, but signed with another key than this user's."""


@dataclass(frozen=True)
class Signer:
    """Signs, and knows what it signed.

    Attributes:
        secret: the key.
        reason: why the key is this process's alone; None for the user's.
    """

    secret: bytes = field(repr=False)
    reason: Reason | None = None

    def sign(self, purpose: str, digest: bytes) -> bytes:
        """The signature of something by its SHA-256; what was signed for one purpose is worth nothing for another."""
        return hmac.digest(self.secret, purpose.encode() + b"\0" + digest, "sha256")

    def signed(self, purpose: str, digest: bytes, signature: bytes) -> bool:
        """Whether the signature is ours."""
        return hmac.compare_digest(self.sign(purpose, digest), signature)


def key_path() -> Path:
    """Where the user's key is, whether it is there or not."""
    return default_config_dir() / FOLDER / FILE


def signer() -> Signer:
    """The user's key, made if there is none; a key of this process alone where none can be kept. Never raises."""
    path = key_path()
    with _LOCK:
        if str(path) in _ALONE:
            return _ALONE[str(path)]
        try:
            status = os.lstat(path)
            return _read_once(path, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        except FileNotFoundError:
            pass
        except (OSError, StoreError) as error:
            return _alone(path, error)
        try:
            _make(path)
            return Signer(_read(path))
        except (OSError, StoreError) as error:
            return _alone(path, error)


_LOCK = new_lock()
#: Keys of this process alone, by the place where the user's should be; a child that is forked has them too.
_ALONE: dict[str, Signer] = {}


@functools.lru_cache(maxsize=8)
def _read_once(path: Path, version: tuple[int, ...]) -> Signer:
    """The key in the file; read again when the file is another."""
    return Signer(_read(path))


def why_alone() -> Reason | None:
    """Why this process signs with a key of its own, if it does; nothing is looked up."""
    with _LOCK:
        return next((one.reason for one in _ALONE.values()), None)


def _alone(path: Path, error: OSError | StoreError) -> Signer:
    problem = f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    detail = (
        f"{problem}. Without a key that can be kept, this process uses nothing from the disk cache but what it wrote "
        "itself, and no other process uses that: mend it, or set DJINN_CONFIG_DIR to a folder of your own"
    )
    log.warning("%s", detail)
    made = Signer(secrets.token_bytes(_KEY_BYTES), Reason(kind=ReasonKind.CACHE_UNUSABLE, detail=detail))
    return _ALONE.setdefault(str(path), made)


def _make(path: Path) -> None:
    """Make the key, unless another process is first: a file appears whole, and never takes another's place."""
    own_folder(path.parent, "choose another configuration folder with DJINN_CONFIG_DIR")
    text = secrets.token_hex(_KEY_BYTES).encode() + b"\n"
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        _create(draft, text)
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links: here a reader may see the file while it is written, and waits.
        with contextlib.suppress(FileExistsError):
            _create(path, text)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


def _create(path: Path, text: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _read(path: Path) -> bytes:
    """The key in a file.

    Raises:
        StoreError: somebody else may know or have chosen it, or it is none.
        OSError: it cannot be read.
    """
    text = b""
    for _ in range(_LOOKS):
        text = _text(path)
        if len(text) >= _TEXT_BYTES:
            break
        time.sleep(_PAUSE_S)
    if _TEXT.fullmatch(text) is None:
        raise StoreError(f"{path} is no key: remove it, and a new one is made")
    return bytes.fromhex(text.decode().strip())


def _text(path: Path) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    if path.is_symlink():
        raise StoreError(f"{path} is a symbolic link: put the key itself there, or remove it")
    with os.fdopen(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is not a regular file: remove it, and a new one is made")
        if os.name == "posix" and status.st_uid != os.geteuid():
            raise StoreError(f"{path} belongs to user {status.st_uid}, not to you (user {os.geteuid()}): remove it")
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            raise StoreError(f"{path} can be read or written by others, who may know the key: remove it")
        return stream.read(_TEXT_BYTES + 1)


# Small files: JSON with a signature


def seal(purpose: str, content: Any, *, allow_nan: bool = True) -> bytes:
    """JSON text that holds the content, its checksum and its signature.

    Args:
        purpose: what kind of file it is, and which.
        content: plain data.
        allow_nan: whether it may hold numbers that are none.

    Raises:
        TypeError, ValueError, RecursionError: the content is not JSON.
    """
    body = json.dumps(content, sort_keys=True, allow_nan=allow_nan).encode()
    digest = hashlib.sha256(body).digest()
    signature = signer().sign(purpose, digest).hex()
    return f'{{"sha256": "{digest.hex()}", "signature": "{signature}", "content": '.encode() + body + _SEAL_END


def unseal(purpose: str, text: bytes) -> Any:
    """The content of :func:`seal`'s text. Nothing of it is read before the signature is found right.

    Raises:
        NotOurs: it is whole, but signed with another key.
        ValueError: it was cut or changed, or has no signature.
    """
    start = _SEALED.match(text)
    if start is None:
        raise ValueError("it has no signature: it was cut short, or an older version or somebody else wrote it")
    body = text[start.end() : -len(_SEAL_END)]
    digest = hashlib.sha256(body).digest()
    if digest.hex().encode() != start[1] or not text.endswith(_SEAL_END):
        raise ValueError("its checksum does not fit: it was cut or changed")
    if not signer().signed(purpose, digest, bytes.fromhex(start[2].decode())):
        raise NotOurs("it is signed with another key than yours")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
