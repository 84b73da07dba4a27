"""Durations and sizes as people write them."""

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PREFIXES = "kMGTP"
_BYTES = {"": 1.0, "b": 1.0}
for _power, _prefix in enumerate(_PREFIXES.lower(), start=1):
    _BYTES[f"{_prefix}b"] = 1000.0**_power
    _BYTES[f"{_prefix}ib"] = 1024.0**_power
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
    factor = _BYTES.get(found[2].lower()) if found else None
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
    for power in range(len(_PREFIXES), 0, -1):
        if n_bytes >= 1000**power:
            return f"{n_bytes / 1000**power:.4g} {_PREFIXES[power - 1]}B"
    return f"{n_bytes} bytes"
