"""Passwords of databases: taken out of URLs, files and the environment early, and kept in this process's memory alone.

Everything else holds *bare* URLs, without a password. So nothing that is printed, stored, pickled or handed to another
process can show one; ``locate`` in :mod:`hpsearch.storage.connect` puts the two together again for the driver.
"""

import base64
import ctypes
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from hpsearch.errors import UsageError

MASK = "***"
OURS = "HPSEARCH_"
LIBPQ = "PGPASSWORD"
FILE = "HPSEARCH_STORAGE_PASSWORD_FILE"

# As far as the last @ before the path, or, for a password with a slash in it, as SQLAlchemy reads it.
_USER = re.compile(r"(?<=://)([^:/?#@\s]*):(?:([^/?#\s]*)@|([^@\s]*)@)")
_QUERY = re.compile(r"([?&])password=([^&\s#'\"]*)")

_kept: dict[str, str] = {}  # bare URL -> password
_seen: set[str] = set()  # every password of this process, whatever became of it
_lock = threading.RLock()
_n_hiding = 0
_hidden: dict[str, str] = {}
_before: dict[str, str | None] = {}  # variables that whoever hides changes, as they were
_withdrawn = ""  # what PGPASSWORD was


def bare(url: str) -> str:
    """A URL without its password, which is kept; other text comes back as it is."""
    found = _USER.search(url)
    if found is not None:
        _keep_for(masked(url, ""), unquote(found[2] if found[2] is not None else found[3]))
    elif (query := _QUERY.search(url)) is not None:
        _keep_for(masked(url, ""), unquote_plus(query[2]))
    return masked(url, "")


def masked(text: str, mask: str = MASK) -> str:
    """Any text, with the passwords of URLs in it replaced; with an empty mask, taken out together with their mark."""
    text = _USER.sub(rf"\1:{mask}@" if mask else r"\1@", text)
    if mask or not _QUERY.search(text):
        return _QUERY.sub(rf"\1password={mask}", text)
    return re.sub(r"[?&]$", "", _QUERY.sub(r"\1", text).replace("?&", "?").replace("&&", "&"))


def shows(text: str) -> bool:
    """Whether a text holds a URL with a password."""
    return masked(text) != text


def of(url: str) -> str | None:
    """The password that goes with a bare URL: its own, a file's, or that of PGPASSWORD."""
    with _lock:
        found = _kept.get(url) or os.environ.get(LIBPQ) or _hidden.get(LIBPQ) or _withdrawn
    return _remember(found) if found else None


def same(url: str, other: str) -> None:
    """Say that two bare URLs name one database."""
    with _lock:
        if url in _kept:
            _kept[other] = _kept[url]


def read_file(url: str, path: str) -> str | None:
    """Keep a file's first line as the password of a bare URL; a warning in one line, or None.

    UsageError: there is no such file, or it cannot be read, or nothing is in it.
    """
    try:
        place = Path(path).expanduser()
        text = place.read_text(encoding="utf-8")
        everybody = stat.S_IMODE(place.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "is no text"
        raise UsageError(f"storage.password_file: {path}: {why}") from None
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise UsageError(f"storage.password_file: {path}: is empty: its first line must be the password")
    _keep_for(url, password)
    return f"{path} can be read by others: chmod 600 {path}" if everybody else None


def scrub(text: str) -> str:
    """``text`` without any password that this process knows, in whatever form a library may have put it there."""
    for password in sorted(_seen, key=len, reverse=True):
        raw = password.encode()
        encoded = {quote(password, safe=""), quote(password), quote_plus(password)}
        encoded |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), repr(password)[1:-1]}
        for form in sorted({password, *encoded}, key=len, reverse=True):
            text = text.replace(form, MASK)
    return text


def is_private(name: str) -> bool:
    """Whether a variable of the environment is no business of a child process."""
    return name.startswith(OURS) or name == LIBPQ


def without_private(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child process."""
    return {name: value for name, value in environ.items() if not is_private(name)}


@contextmanager
def hiding(*changed: str) -> Iterator[None]:
    """No process that is started inside, by any thread, inherits a private variable; nested and side by side.

    ``changed`` are names of variables that are set inside, and are afterwards as they were.
    """
    global _n_hiding
    with _lock:
        _n_hiding += 1
        for name in changed:
            _before.setdefault(name, os.environ.get(name))
        _hidden.update({name: os.environ.pop(name) for name in list(os.environ) if is_private(name)})
    try:
        yield
    finally:
        with _lock:
            _n_hiding -= 1
            if not _n_hiding:
                for name, value in {**_before, **_hidden}.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
                _hidden.clear()
                _before.clear()


def withdraw() -> None:
    """Take passwords out of this process's own environment for good, and out of what /proc shows of it.

    For a program of ours; never for a process that is the user's.
    """
    global _withdrawn
    for name, value in list(os.environ.items()):
        if name == LIBPQ:
            _withdrawn = _remember(os.environ.pop(name))
        elif name.startswith(OURS) and shows(value):
            os.environ[name] = bare(value)
        else:
            continue
        _blot(f"{name}={value}".encode(errors="surrogateescape"))


def _keep_for(url: str, password: str) -> None:
    if password not in ("", MASK):  # a command that was shown masked, and pasted
        with _lock:
            _kept[url] = _remember(password)


def _remember(password: str) -> str:
    _seen.add(password)
    return password


def _blot(entry: bytes) -> None:
    """Overwrite an entry of the environment where this process's start laid it down: /proc/PID/environ shows that."""
    try:
        environment = Path("/proc/self/environ").read_bytes()
        start = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[47])  # the 50th field of the line
    except (OSError, IndexError, ValueError):
        return
    offset = (b"\0" + environment).find(b"\0" + entry + b"\0")
    name_length = entry.index(b"=") + 1
    if start and offset >= 0:
        ctypes.memset(start + offset + name_length, ord("*"), len(entry) - name_length)
