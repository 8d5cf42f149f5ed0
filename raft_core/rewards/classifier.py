"""A reward that is a transformers sequence-classification model: the raw output (logit) of one label.

Texts are sorted by length and padded in batches of ``batch_size``; weights and arithmetic are
float32. A text longer than ``max_tokens`` is cut at its start, so the completion is always read.
Only safetensors are loaded, and never code from the folder. A chat template renders every text in a
child process with limits (``policies.text.template``), because every text is new.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import Day
from raft_core.errors import ConfigError, InputError
from raft_core.files.artifacts import json_digest, model_digest
from raft_core.policies.completeness import check_complete, without_report
from raft_core.policies.hub import refuse_hub_id
from raft_core.policies.text.checkpoint import check_weights
from raft_core.references import resolve
from raft_core.rewards.base import RewardConfig, ScoredText, reward_identity, texts
from raft_core.rewards.returned import Failure
from raft_core.rewards.turns import REFUSED, rendered, template_of
from raft_core.types import Prompt

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


_HEAD = re.compile(r"(score|classifier|classification_head)\.")


class ClassifierRewardConfig(RewardConfig):
    """A reward model or classifier in transformers format; its score is the raw output (logit) of one label.

    For a reward model with a single output `{type: classifier, model: models/reward}` is enough; for a classifier name
    the label, such as `{type: classifier, model: models/sentiment, label: POSITIVE, text: completion}`.
    """

    loads_weights: ClassVar[bool] = True
    type: Literal["classifier"] = "classifier"
    model: str = Field(
        description="folder with config.json, tokenizer files and safetensors weights of a sequence-classification "
        "model; or `example:EXAMPLE/reward`. Ids of the Hugging Face hub are not fetched: run "
        "`hf download ID --local-dir models/NAME` first"
    )
    label: str | None = Field(
        None, description="name of the label whose output is the score; null: the only output of a reward model"
    )
    text: ScoredText = "prompt_and_completion"
    chat_template: bool | None = Field(
        None,
        description="true: score prompt and completion as turns of the model's chat template; false: as one plain "
        "text; null: only allowed if the folder has no chat template (otherwise choose the form that the model was "
        "trained on)",
    )
    template_date: Day | None = Field(
        None,
        description="date that a chat template prints as today's, such as `2026-01-31`; null: only allowed if the "
        "template prints no date",
    )
    batch_size: int = Field(64, ge=1, description="texts per forward pass; lower it if memory runs out")
    max_tokens: int = Field(
        256,
        ge=1,
        description="maximum number of tokens of a text; a longer one is cut at its start, so that the completion is "
        "always read",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.chat_template and self.text == "completion":
            raise ValueError(
                "chat_template: true renders prompt and completion, but text is completion; "
                "set text: prompt_and_completion, or chat_template: false"
            )
        if self.template_date is not None and not self.chat_template:
            raise ValueError("template_date needs chat_template: true; set it, or remove template_date")
        return self

    def load(self, *, weights: bool = True) -> "ClassifierReward":
        """See ``RewardConfig.load``."""
        return load(self) if weights else load_without_weights(self)


@dataclass(frozen=True, slots=True)
class ClassifierReward:
    """A model in memory. ``output`` is the index of the label that scores."""

    identity: str
    sources: Mapping[str, str]
    model: Any
    tokenizer: Any
    output: int
    text: ScoredText
    batch_size: int
    max_tokens: int
    template: str | None = None
    """Template that renders prompt and completion as turns; None: they are concatenated as plain text."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
        """One logit per sample; a Failure for a sample that the chat template cannot render."""
        if self.template is None:
            return [*self._logits(texts(self.text, prompts, completions))]
        texts_or_faults = rendered(self.template, self.tokenizer, [p.text for p in prompts], completions)
        logits = iter(self._logits([text for text in texts_or_faults if isinstance(text, str)]))
        return [next(logits) if isinstance(text, str) else Failure.of(f"{REFUSED}: {text}") for text in texts_or_faults]

    def _logits(self, read: Sequence[str]) -> list[float]:
        if not read:
            return []
        encoded = self.tokenizer(
            list(read),
            truncation=True,
            max_length=self.max_tokens,
            verbose=False,
            add_special_tokens=self.template is None,  # a template writes the special tokens itself
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        scores = [0.0] * len(order)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
            for row, logit in zip(rows, self._batch_logits(batch), strict=True):
                scores[row] = logit
        return scores

    def _batch_logits(self, rows: Mapping[str, list[list[int]]]) -> list[float]:
        """Logits of rows in one batch.

        A decoder takes its score at the last token that is not ``config.pad_token_id``, so rows are padded with that
        id. A model without one takes the very last token: padding is then an id that occurs in none of the rows, so
        that an end-of-text token that closes a reply is read and not skipped.
        """
        import torch

        config = self.model.config.get_text_config()
        padding = config.pad_token_id
        if padding is None:
            held = {token for ids in rows["input_ids"] for token in ids}
            free = next((token for token in range(config.vocab_size) if token not in held), None)
            if free is None and len(rows["input_ids"]) > 1:
                return [
                    logit
                    for i in range(len(rows["input_ids"]))
                    for logit in self._batch_logits({name: values[i : i + 1] for name, values in rows.items()})
                ]
            config.pad_token_id = free
        else:
            free = padding
        width = max(map(len, rows["input_ids"]))
        batch = {
            name: torch.tensor([[*v, *[free if name == "input_ids" else 0] * (width - len(v))] for v in values])
            for name, values in rows.items()
        }
        try:
            with torch.inference_mode():
                logits_BL = self.model(**{name: v.to(self.model.device) for name, v in batch.items()}).logits
        finally:
            config.pad_token_id = padding
        logits: list[float] = logits_BL[:, self.output].float().tolist()
        return logits


def load(config: ClassifierRewardConfig) -> ClassifierReward:
    """The model in the folder that ``config`` names, on the GPU if there is one.

    Raises InputError for an invalid folder, ConfigError for a label or length that the model does not have.
    """
    return _load(config, _load_model, model_digest)


def load_without_weights(config: ClassifierRewardConfig) -> ClassifierReward:
    """As ``load``, but reads only the headers of the weights: finds the same errors in seconds, and cannot score."""
    return _load(config, _outline, lambda folder: json_digest(sorted(map(str, folder.iterdir()))))


def _load(
    config: ClassifierRewardConfig, model_of: Callable[[Path], Any], digest_of: Callable[[Path], str]
) -> ClassifierReward:
    folder = resolve(config.model)
    refuse_hub_id(config.model)
    _check_files(folder)
    digest = digest_of(folder)
    identity = reward_identity(config, digest)
    tokenizer = _load_tokenizer(folder)
    template = template_of(folder, tokenizer, config.chat_template, config.template_date)
    model = model_of(folder)
    return ClassifierReward(
        identity=identity,
        sources={config.model: digest},
        model=model,
        tokenizer=tokenizer,
        output=_output(folder, model, config.label),
        text=config.text,
        batch_size=config.batch_size,
        max_tokens=_max_tokens(folder, model, tokenizer, config),
        template=template,
    )


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"no classification model in {folder}",
            got="a folder without config.json" if folder.is_dir() else "the folder does not exist",
            expected="a folder in transformers format (config.json, tokenizer files, safetensors weights); relative "
            "paths start at the current directory",
            hint="correct `model` of the reward",
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"no safetensors weights in {folder}",
            expected="*.safetensors (other formats can contain code and are not loaded)",
            hint="download the safetensors weights; or, if you trust the files, load the model with transformers and "
            "call save_pretrained()",
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            f"no tokenizer in {folder}",
            expected=f"one of {', '.join(_TOKENIZER_FILES)}",
            hint="copy the tokenizer files that the model was trained with into this folder",
        )


def _load_model(folder: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    try:
        with without_report():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"the classification model in {folder} cannot be loaded",
            got=error,
            expected="a model that AutoModelForSequenceClassification loads without Python code of its own",
            hint="copy or download the folder again, in case a file was cut off; or use another model",
        ) from error
    check_complete(folder, loading, model=type(model).__name__)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _outline(folder: Path) -> Any:
    """The model without memory for its weights; the headers of the files show whether they include the head."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shapes = check_weights(folder)
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(settings, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            f"the classification model in {folder} cannot be loaded",
            got=error,
            expected="a model that AutoModelForSequenceClassification loads without Python code of its own",
            hint="check that config.json is complete and of a sequence-classification model; or use another model",
        ) from error
    heads = [name for name, _ in model.named_parameters() if _HEAD.match(name)]
    if missing := [name for name in heads if name not in shapes]:
        raise InputError(
            f"the model in {folder} has no trained classification head",
            got=f"weights without {', '.join(missing[:3])}",
            expected="a model that was trained to classify or to score texts",
            hint="set `model` of the reward to such a model: with this one every score would be random",
        )
    return model


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"the tokenizer of the classifier in {folder} cannot be loaded",
            got=error,
            expected=f"one of {', '.join(_TOKENIZER_FILES)}, readable without Python code of its own",
            hint="copy the tokenizer files again from where the model came from",
        ) from error
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer of the classifier in {folder} has no padding token",
                expected="a pad_token or an eos_token",
                hint="load it with transformers, set its pad_token and call save_pretrained()",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _output(folder: Path, model: Any, label: str | None) -> int:
    labels = {str(name): int(index) for index, name in model.config.id2label.items()}
    if label is None and len(labels) == 1:
        return 0
    if label in labels:
        return labels[label]
    raise ConfigError(
        f"the reward does not say which label of {folder} is the score"
        if label is None
        else f"the classifier in {folder} has no label {label}",
        got="no `label`" if label is None else f"label: {label}",
        expected=f"one of {', '.join(labels)}",
        hint="set `label` of the reward to one of these",
    )


def _max_tokens(folder: Path, model: Any, tokenizer: Any, config: ClassifierRewardConfig) -> int:
    most = min(getattr(model.config, "max_position_embeddings", None) or config.max_tokens, tokenizer.model_max_length)
    if config.max_tokens > most:
        raise ConfigError(
            f"max_tokens of the reward is more than the classifier in {folder} can read",
            got=f"max_tokens: {config.max_tokens}",
            expected=f"at most {most}",
            hint=f"set max_tokens: {most}",
        )
    return config.max_tokens
