"""Convert what a reward returned to scores; a user's function may return anything."""

import math
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample has no score: one line of at most ``REASON_CHARS`` characters that can be stored."""

    reason: str

    @staticmethod
    def of(text: str) -> "Failure":
        """A failure with the reason ``text``, without line breaks and lone surrogates."""
        return Failure(" ".join(text.encode("utf-8", "replace").decode().split())[:REASON_CHARS])


def as_scores(returned: Any, count: int, name: str) -> list[float | Failure] | Failure:
    """``returned`` as ``count`` finite floats, with a Failure in place of each value that is not one.

    Takes one-dimensional lists, tuples, iterators, arrays and tensors of real numbers, booleans
    included. One Failure for all if they cannot be matched to the samples of reward ``name``.
    """
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | bytearray | dict | set | frozenset):
        return Failure.of(
            f"reward '{name}' returned {shown(returned)}, but must return a list of numbers, one per sample "
            "(set batched: false if the function takes one sample)"
        )
    values = list(islice(returned, count + 1))
    if len(values) == count:
        return [_score(value, name) for value in values]
    num = len(returned) if isinstance(returned, Sized) else len(values)
    more = " or more" if num > count and not isinstance(returned, Sized) else ""
    return Failure.of(
        f"reward '{name}' returned {num}{more} number{'' if num == 1 else 's'} for {count} "
        f"sample{'' if count == 1 else 's'}: a reward must return one number per sample"
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
    """A value and its type; safe even if its ``__repr__`` raises."""
    try:
        text = repr(value)
    except Exception:
        text = "an object whose repr fails"
    return f"{text[:60]} ({type(value).__name__})"


def error_text(error: BaseException) -> str:
    """An exception's type and message; safe even if its ``__str__`` raises."""
    try:
        message = str(error)
    except Exception:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
