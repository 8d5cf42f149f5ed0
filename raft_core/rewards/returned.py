"""What a reward returned, as scores: anything may come back from somebody else's function."""

import math
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample has no score: one line that can be stored, at most ``REASON_CHARS`` long."""

    reason: str

    @staticmethod
    def of(text: str) -> "Failure":
        """A failure told by ``text``, without line breaks and lone surrogates."""
        return Failure(" ".join(text.encode("utf-8", "replace").decode().split())[:REASON_CHARS])


def as_scores(returned: Any, count: int, name: str) -> list[float | Failure] | Failure:
    """``returned`` as ``count`` finite floats, with a Failure in the place of each value that is none.

    Takes one-dimensional lists, tuples, iterators, arrays and tensors of real numbers, booleans
    included. One Failure for all if they cannot be matched to the samples of reward ``name``.
    """
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | bytearray | dict | set | frozenset):
        return Failure.of(
            f"reward '{name}' returned {shown(returned)}: a batched reward must return a list of numbers "
            "(batched: false is for a function of one sample)"
        )
    values = list(islice(returned, count + 1))
    if len(values) == count:
        return [_score(value, name) for value in values]
    num = len(returned) if isinstance(returned, Sized) else len(values)
    more = " or more" if num > count and not isinstance(returned, Sized) else ""
    return Failure.of(
        f"{num}{more} reward{'' if num == 1 else 's'} for {count} sample{'' if count == 1 else 's'} "
        f"from reward '{name}': a reward must return one number a sample"
    )


def _score(value: Any, name: str) -> float | Failure:
    if isinstance(value, Failure):
        return value
    if isinstance(value, str | bytes | bytearray):
        return Failure.of(f"reward '{name}' returned {shown(value)}, not a number")
    try:
        score = float(value)
    except Exception:
        return Failure.of(f"reward '{name}' returned {shown(value)}, not a number")
    return score if math.isfinite(score) else Failure.of(f"reward '{name}' returned {score}")


def shown(value: Any) -> str:
    """A value and its type, whatever its ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception:
        text = "an object whose repr fails"
    return f"{text[:60]} ({type(value).__name__})"


def told(error: BaseException) -> str:
    """An exception's type and message, whatever its ``__str__`` does."""
    try:
        message = str(error)
    except Exception:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
