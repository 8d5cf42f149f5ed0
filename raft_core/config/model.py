"""Types that every section of the configuration uses."""

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
        raise ValueError(
            f"{pattern!r} is not a regular expression ({error}); put a backslash before characters meant literally"
        ) from None
    return pattern


def _is_a_day(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError(f"{text!r} is not a date; write it like 2026-01-31")
    return date.fromisoformat(text).isoformat()


Day = Annotated[str, AfterValidator(_is_a_day)]
"""A date such as 2026-01-31, kept as text so that YAML, JSON and digests hold the same."""
RegularExpression = Annotated[str, AfterValidator(_compiles)]


class ConfigModel(BaseModel):
    """Base class of every section of a configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
