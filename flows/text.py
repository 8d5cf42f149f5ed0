"""Text for a terminal: numbers, sparklines, and model output without control characters."""

import math
import re
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_PICTURES = {"\n": "⏎", "\t": "⇥"}


def harmless(text: str, limit: int | None = None) -> str:
    """``text`` in one line, without characters that could control a terminal.

    Control characters (escape sequences, carriage returns), direction overrides and invisible
    characters are replaced by visible codes. A text longer than ``limit`` characters is cut.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _CONTROL.sub(lambda match: _PICTURES.get(match[0], f"\\x{ord(match[0]):02x}"), text)


def person(name: str) -> str:
    """The name of a person, as it is written to the ledger. Raises ConfigError if nothing visible is left of it.

    Invisible characters are removed, so that they cannot make two names of one.
    """
    from raft_core.errors import ConfigError

    if not (seen := harmless("".join(filter(str.isprintable, name)).strip(), 100)):
        raise ConfigError(
            "no name was given for the ledger",
            got=ascii(name),
            expected="a name with visible characters",
            hint="give it with --by NAME, the environment variable RAFT_USER, or the name field of Prefect's form",
        )
    return seen


def words(reason: str) -> str:
    """A reason, as it is written to the ledger: in one line, without control characters, cut at 1000 characters."""
    return harmless(reason.strip(), 1000)


def sparkline(values: Sequence[float | None]) -> str:
    """One bar per value, scaled from the lowest to the highest value; a missing value is a space.

    If all values are equal, all bars have half the height.
    """
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return " " * len(values)
    low, high = min(known), max(known)

    def bar(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        share = (value - low) / (high - low) if high > low else 0.5
        return BARS[min(int(share * len(BARS)), len(BARS) - 1)]

    return "".join(map(bar, values))


def number(value: object, digits: int = 2) -> str:
    """A value of a report; "–" if it is missing."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return f"{value:z,.{digits}f}"


def counted(number: int, noun: str) -> str:
    """A number with a regular noun: "1 run", "1,200 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(value: object) -> str:
    """A share as a percentage; "–" if it is missing."""
    return f"{value:.0%}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"
