"""Remove secrets from texts and settings before they leave the process: events, MLflow, Prefect, exports, errors.

This is a safety net for mistakes: secrets belong in the environment. It recognizes URLs with a user or password, signed
URLs, ``Authorization`` values, private keys, JSON web tokens, keys of AWS, Google, Hugging Face, OpenAI, GitHub, GitLab
and Slack, and every value whose name says token, password, secret or key (``HF_TOKEN=…``).
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_NAMES = (
    r"passw(?:or)?d|passphrase|pwd|secret|credentials?|authorization|private[_\-.]?key|api[_\-.]?key"
    r"|access[_\-.]?key(?:[_\-.]?id)?|account[_\-.]?key|signing[_\-.]?key|connection[_\-.]?string"
)
_TOKEN = (
    r"(?<![A-Za-z])(?:(?:access|auth|bearer|hf|hub|github|gitlab|api|id|refresh|session|security|sas)[_\-.]?)?token"
)
_SECRET_NAME = re.compile(rf"(?:{_NAMES})s?(?:$|[_\-.\s])|{_TOKEN}$", re.IGNORECASE)
_MODEL_TOKEN = re.compile(
    r"(?:^|[_\-.])(?:eos|bos|pad|unk|sep|cls|mask|stop|end|start|begin|first|last|new|next|special|per|image|a)"
    r"[_\-.]token$",
    re.IGNORECASE,
)
"""Names of special tokens of language models, which are not secrets."""

_SURE = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"(?<=://)(?!\[[\da-fA-F:.]*\])[^\s/?#@'\"<>:]{0,200}:(?!\d{1,5}[/?#])[^\s'\"<>]{1,500}(?=@)",
        r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
        r"\bAIza[A-Za-z0-9_\-]{35}",
        r"\bhf_[A-Za-z0-9]{20,}",
        r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_\-]{20,}",
        r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_\-]{16,}",
        r"\bxox[abeprs]-[A-Za-z0-9\-]{10,}",
    )
)
"""Patterns that only secrets match. A password in a URL may hold ``/`` and ``@``: it extends to the last ``@``, unless
a port number follows the colon."""

_LIKELY = (
    (re.compile(r"(://)[^\s/?#'\"<>\[]{1,500}(?=@)"), rf"\1{REDACTED}"),
    (re.compile(r"(://)(?!\[)[^\s/?#@'\"<>:]{0,200}:(?!\d{1,5}[/?#])\S{1,500}(?=@)"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)(\bauthorization[\"']?\s*[=:]\s*[\"']?)(?!\[)(?:\w+\s+)?[^\s,\"'}]+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b(bearer)\s+(?=\S*\d|\S{20})[a-z0-9._~+/\-]{8,}=*"), rf"\1 {REDACTED}"),
    (
        re.compile(r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|sig|signature|token|key)=)[^&\s'\"<>]+"),
        rf"\1{REDACTED}",
    ),
)

_ASSIGNED = re.compile(
    r"(?<![\w\-.])(?=[\w\-.]{0,60}(?i:passw|passphrase|pwd|secret|credential|authoriz|key|token|connection))"
    r"(?P<name>[\w\-.]{1,60})(?P<mark>[\"']?\s{0,3}[=:]\s{0,3})"
    r"(?!\[)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&}\])\"']+)"
)
"""``name = value`` in the forms of shells, JSON, YAML and URLs."""


def redacted_text(text: str) -> str:
    """``text`` with every secret that is recognized by form or name replaced by ``[redacted]``; idempotent."""
    for sure in _SURE:
        text = sure.sub(REDACTED, text)
    for likely, replacement in _LIKELY:
        text = likely.sub(replacement, text)
    return _ASSIGNED.sub(_without_value, text)


def redacted(value: Any, name: str = "") -> Any:
    """A JSON-like value without secrets: texts that look like one, and every text under the name of one.

    ``name`` is the key of ``value``. Numbers, booleans and None stay; mappings, lists and tuples are copied; any other
    value is returned unchanged.
    """
    if isinstance(value, str):
        return REDACTED if value and is_secret_name(name) else redacted_text(value)
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner, name) for inner in value]
    if isinstance(value, tuple):
        return tuple(redacted(inner, name) for inner in value)
    return value


def is_secret_name(name: str) -> bool:
    """Whether ``name`` names a secret: ``hf_token`` does; ``eos_token`` and ``max_new_tokens`` do not."""
    return _SECRET_NAME.search(name) is not None and _MODEL_TOKEN.search(name) is None


def holds_secret(text: str) -> bool:
    """Whether ``text`` certainly holds a secret (a URL with a password, a private key, a provider's key)."""
    return any(pattern.search(text) for pattern in _SURE)


def _without_value(match: re.Match[str]) -> str:
    return f"{match['name']}{match['mark']}{REDACTED}" if is_secret_name(match["name"]) else match[0]
