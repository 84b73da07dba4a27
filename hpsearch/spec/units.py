"""Durations and sizes as people write them."""

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    **{"": 1, "B": 1},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTP", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", start=1)},
}
_BYTES_FOLDED = {unit.lower(): factor for unit, factor in _BYTES.items()}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)")


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1h30m``, ``2d``, ``45``. Raises ValueError."""
    position, total = 0, 0.0
    text = text.strip()
    while part := _PART.match(text, position):
        number, unit = part.groups()
        if unit not in _SECONDS and not (unit == "" and part.end() == len(text) and position == 0):
            break
        total += float(number) * _SECONDS.get(unit, 1.0)
        position = part.end()
    if not text or position != len(text):
        raise ValueError("must be a duration such as 90s, 10m, 1h30m or 2d")
    return total


def parse_size(text: str) -> int:
    """Bytes of ``500MB`` (10^6 each), ``2GiB`` (2^30 each), ``1000``. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    factor = _BYTES_FOLDED.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError("must be a size such as 500MB, 2GB or 2GiB")
    return round(float(found[1]) * factor)


def duration_words(seconds: float) -> str:
    """``1h30m`` for 5400."""
    words = ""
    for unit in ("d", "h", "m"):
        n, seconds = divmod(seconds, _SECONDS[unit])
        words += f"{int(n)}{unit}" if n else ""
    return words + (f"{seconds:g}s" if seconds or not words else "")


def size_words(n_bytes: int) -> str:
    """``2 GB`` for 2000000000."""
    for unit in ("PB", "TB", "GB", "MB", "kB"):
        if n_bytes >= _BYTES[unit]:
            return f"{n_bytes / _BYTES[unit]:.4g} {unit}"
    return f"{n_bytes} bytes"
