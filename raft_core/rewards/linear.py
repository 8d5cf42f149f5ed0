"""A reward that is a linear model on TF-IDF features, kept without pickle.

r(text) = intercept + coef · x / |x|,  x_t = (1 + ln tf_t) · idf_t  (tf_t · idf_t without ``sublinear_tf``),
over words and word n-grams, as scikit-learn's TfidfVectorizer defines them. A text without a
known term scores the intercept.

FOLDER/config.json        kind, ngram_range, lowercase, token_pattern, sublinear_tf, intercept
FOLDER/vocabulary.json    {term: index}, the indices 0 … V−1
FOLDER/model.safetensors  idf [V], coef [V], float64
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from raft_core.config.model import ConfigModel
from raft_core.errors import InputError
from raft_core.files.artifacts import write_bytes, write_json
from raft_core.policies.hub import refuse_hub_id
from raft_core.references import resolve
from raft_core.rewards.base import RewardConfig, ScoredText, digest_of_named, reward_identity, texts
from raft_core.types import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
else:
    Floats = object

_SAVE_AGAIN = "write the folder again with raft_core.rewards.linear.save, or copy it again"
_SETTINGS = ("ngram_range", "lowercase", "token_pattern", "sublinear_tf")
_FIXED = {
    "analyzer": "word",
    "binary": False,
    "norm": "l2",
    "preprocessor": None,
    "stop_words": None,
    "strip_accents": None,
    "tokenizer": None,
    "use_idf": True,
}


class LinearRewardConfig(RewardConfig):
    """A linear model on TF-IDF features, as scikit-learn fits it; fast, and often good enough as a gold reward.

    The folder is written from a fitted TfidfVectorizer and linear regressor by
    `raft_core.rewards.linear.save(folder, vectorizer, regressor)`.
    """

    type: Literal["linear"] = "linear"
    model: str = Field(
        description="folder with config.json, vocabulary.json and model.safetensors; or `example:EXAMPLE/gold`"
    )
    text: ScoredText = "prompt_and_completion"

    def load(self, *, weights: bool = True) -> "LinearReward":
        """See ``RewardConfig.load``."""
        return load(self)


class LinearModel(ConfigModel):
    """``config.json`` of a model."""

    kind: Literal["tfidf_linear"] = "tfidf_linear"
    ngram_range: tuple[int, int] = (1, 1)
    lowercase: bool = True
    token_pattern: str = r"(?u)\b\w+\b"
    sublinear_tf: bool = True
    intercept: float = Field(0.0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class LinearReward:
    """A model in memory. coef_V: float64, one weight per term."""

    identity: str
    sources: Mapping[str, str]
    vectorizer: Any
    coef_V: Floats
    intercept: float
    text: ScoredText

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per sample."""
        features_BV = self.vectorizer.transform(texts(self.text, prompts, completions))
        scores: list[float] = (features_BV @ self.coef_V + self.intercept).tolist()
        return scores


def load(config: LinearRewardConfig) -> LinearReward:
    """The model in the folder that ``config`` names. Raises InputError that names the invalid file."""
    folder = resolve(config.model)
    refuse_hub_id(config.model)
    if not folder.is_dir():
        raise InputError(
            f"the folder of the linear reward does not exist: {folder}",
            expected="a folder with config.json, vocabulary.json and model.safetensors; relative paths start at the "
            "current directory",
            hint="correct `model` of the reward",
        )
    model = _read_config(folder / "config.json")
    vocabulary = _read_vocabulary(folder / "vocabulary.json")
    idf_V, coef_V = _read_weights(folder / "model.safetensors", len(vocabulary))
    digest = digest_of_named(folder, "model")
    return LinearReward(
        reward_identity(config, digest),
        {config.model: digest},
        _vectorizer(model, vocabulary, idf_V),
        coef_V,
        model.intercept,
        config.text,
    )


def save(folder: Path, vectorizer: Any, ridge: Any) -> None:
    """Write a fitted TfidfVectorizer and linear regressor (``coef_``, ``intercept_``) to ``folder``.

    Raises ValueError for a vectorizer whose settings the format cannot hold.
    """
    import numpy as np
    from safetensors.numpy import save as to_bytes

    settings = vectorizer.get_params()
    if wrong := {name: settings[name] for name, value in _FIXED.items() if settings[name] != value}:
        raise ValueError(f"a vectorizer with {wrong} cannot be saved; these settings must be {_FIXED}")
    model = LinearModel(**{name: settings[name] for name in _SETTINGS}, intercept=float(np.ravel(ridge.intercept_)[0]))
    weights = {"idf": vectorizer.idf_, "coef": np.ravel(ridge.coef_)}
    write_json(folder / "config.json", model.model_dump(mode="json"))
    write_json(folder / "vocabulary.json", {term: int(index) for term, index in vectorizer.vocabulary_.items()})
    write_bytes(
        folder / "model.safetensors", to_bytes({n: np.ascontiguousarray(w, np.float64) for n, w in weights.items()})
    )


def _vectorizer(model: LinearModel, vocabulary: dict[str, int], idf_V: Floats) -> Any:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings = {name: getattr(model, name) for name in _SETTINGS}
    vectorizer = TfidfVectorizer(vocabulary=vocabulary, dtype=np.float64, **_FIXED, **settings)
    vectorizer.idf_ = idf_V
    return vectorizer


def _read_config(path: Path) -> LinearModel:
    try:
        model = LinearModel.model_validate_json(path.read_bytes())
        groups = re.compile(model.token_pattern).groups
    except (OSError, ValidationError, re.error) as error:
        raise InputError(
            f"the configuration of the linear model cannot be read: {path}",
            got=error,
            expected="a config.json with kind tfidf_linear",
            hint=_SAVE_AGAIN,
        ) from None
    if groups > 1:
        raise InputError(
            f"token_pattern in {path} has too many capturing groups",
            got=f"{groups} groups in {model.token_pattern}",
            expected="at most one capturing group",
            hint="write the other groups as (?:…)",
        )
    if not 1 <= model.ngram_range[0] <= model.ngram_range[1]:
        raise InputError(
            f"ngram_range in {path} is impossible",
            got=model.ngram_range,
            expected="two numbers, at least 1, the smaller first",
            hint=_SAVE_AGAIN,
        )
    return model


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(path.read_bytes())
        whole = bool(vocabulary) and sorted(vocabulary.values()) == list(range(len(vocabulary)))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"the vocabulary cannot be read: {path}", got=error, expected='{"term": index, …}', hint=_SAVE_AGAIN
        ) from None
    if not whole:
        raise InputError(
            f"the vocabulary is empty or its indices have gaps: {path}",
            got=f"{len(vocabulary)} terms",
            expected=f"the indices 0 to {max(len(vocabulary) - 1, 0)}, each once",
            hint=_SAVE_AGAIN,
        )
    return {str(term): int(index) for term, index in vocabulary.items()}


def _read_weights(path: Path, num_terms: int) -> tuple[Floats, Floats]:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = load_file(path)
        idf_V, coef_V = (weights[name].astype(np.float64) for name in ("idf", "coef"))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"the weights of the linear model cannot be read: {path}",
            got=error,
            expected="a safetensors file with idf [V] and coef [V]",
            hint=_SAVE_AGAIN,
        ) from None
    for name, array in (("idf", idf_V), ("coef", coef_V)):
        if array.shape != (num_terms,) or not all(map(math.isfinite, array)):
            raise InputError(
                f"{name} in {path} does not match the vocabulary",
                got=f"shape {array.shape}" if array.shape != (num_terms,) else "numbers that are not finite",
                expected=f"{num_terms} finite numbers, one per term",
                hint=_SAVE_AGAIN,
            )
    return idf_V, coef_V
