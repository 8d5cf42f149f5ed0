"""The data that steps exchange: frozen, picklable, standard library only."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out", "promotion"]
FinishReason = Literal["stop", "length", "error"]
Status = Literal["ok", "quarantined"]

Progress = Callable[[int], None]
"""Called with the number of tokens (or samples) just done; drives progress bars."""

POLICY_SOURCE = "policy"
"""``Sample.source`` of a completion that the policy itself sampled; an expert's is its name."""


def content_id(*parts: object) -> str:
    """A 32-digit hexadecimal identity of JSON-able ``parts``, equal on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. ``reference`` is an answer for a verifier, ``group`` a slice of the scorecard."""

    prompt_id: str
    text: str
    group: str = ""
    source: str = ""
    reference: str | None = None

    @staticmethod
    def of(text: str, *, group: str = "", source: str = "", reference: str | None = None) -> "Prompt":
        """Build a prompt whose id is the hash of its canonical text and reference."""
        return Prompt(content_id("prompt", text, reference), text, group, source, reference)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt, with everything that cannot be recovered later.

    ``logprobs`` are the raw model's (λ = 1), ``sampling_logprobs`` those of the distribution that
    was sampled (after λ, top-k and top-p); both hold one natural logarithm per completion token.
    ``completion_token_ids`` include the token that ended the response where one was sampled (EOS or one of
    ``sampling.stop_token_ids``); ``completion`` does not. ``finish_reason`` "stop" means that the response ended
    (by such a token or by a stop string).
    """

    sample_id: str
    prompt_id: str
    k: int
    seed: int
    completion: str
    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    source: str = POLICY_SOURCE
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or folder and the sha256 of its content: what steps pass to each other."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A model on disk. ``path`` holds full weights, or an adapter of ``base``."""

    path: Path
    digest: str
    base: Artifact | None = None

    @property
    def identity(self) -> str:
        """The digest of what is sampled: the weights, or base and adapter together."""
        return content_id("policy", self.digest, self.base.digest if self.base else None)
