"""What every part of the configuration is made of."""

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}); escape what is meant literally") from None
    return pattern


def _is_a_day(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError(f"{text!r} is not a date; write it as 2026-01-31")
    return date.fromisoformat(text).isoformat()


Day = Annotated[str, AfterValidator(_is_a_day)]
"""A date as text, since YAML, JSON and digests must hold the same: 2026-01-31."""
RegularExpression = Annotated[str, AfterValidator(_compiles)]


class ConfigModel(BaseModel):
    """Base of every part: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
