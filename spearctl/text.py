"""Words for people: relative times, sizes, counts, and text that is safe to print."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

SPANS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_S = 365 * 86_400
STEPS = ((60.0, "second", "s", 1.0), (3600.0, "minute", "min", 60.0), (86_400.0, "hour", "h", 3600.0))
DAY_S = 86_400.0
UNITS = ("B", "KB", "MB", "GB", "TB")


def ago(moment: str, *, now: datetime | None = None, short: bool = False) -> str:
    """Says how long ago an ISO 8601 moment was: "just now", "3 minutes ago"; the moment itself if unreadable.

    Args:
        moment: In UTC if it names no zone.
        now: Instead of the clock's.
        short: Say "3 min ago", for tables.
    """
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds, short=short)} ago"


def duration(seconds: float, *, short: bool = False) -> str:
    """Says a time span in its largest whole unit: "40 seconds", "1 hour"; "40 s", "1 h" if short."""
    unit, mark, step = next(
        ((unit, mark, step) for limit, unit, mark, step in STEPS if seconds < limit), ("day", "d", DAY_S)
    )
    number = int(seconds / step)
    return f"{number} {mark}" if short else count(number, unit)


def seconds(text: str) -> int | None:
    """Reads a time span such as 90s, 5m, 24h or 7d, a year at most; None if it is none."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    found = int(match[1]) * SPANS_S[match[2]] if match else 0
    return found if 0 < found <= MOST_S else None


def size(n_bytes: float) -> str:
    """Says a size in decimal units: "980 B", "9.8 MB", "269 MB"."""
    for unit in UNITS:
        if n_bytes < 1000 or unit == UNITS[-1]:
            break
        n_bytes /= 1000
    return f"{n_bytes:.1f} {unit}" if unit != "B" and n_bytes < 10 else f"{n_bytes:.0f} {unit}"


def binary_size(n_bytes: float) -> str:
    """Says a size of memory: "7.8 GiB"."""
    return f"{n_bytes / 2**30:.1f} GiB"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Says a number with its noun: "1 entry", "1,204 entries"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def tilde(path: Path) -> str:
    """Shortens a path below the user's own folder to `~/...`."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def clip(text: str, width: int) -> str:
    """Puts a text on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def printable(text: str) -> str:
    """Replaces control characters, so that what a file or a peer says cannot steer the terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} else f"\\x{ord(c):02x}" for c in text
    )
