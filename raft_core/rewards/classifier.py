"""A reward that is a transformers sequence-classification model: the raw output (logit) of one label.

Texts are sorted by length and padded in batches of ``batch_size``; weights and arithmetic are
float32. A text longer than ``max_tokens`` loses its beginning, so the completion is always read.
Only safetensors are loaded, and never code from the folder. A chat template renders every text in a
child process with limits (``policies.text.template``): each is new, so none was tried before.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import Day
from raft_core.errors import ConfigError, InputError, RewardError
from raft_core.files.artifacts import json_digest, model_digest
from raft_core.policies.completeness import check_complete, without_report
from raft_core.policies.hub import refuse_hub_id
from raft_core.policies.text.chat import chat_template, turns
from raft_core.policies.text.checkpoint import check_weights
from raft_core.policies.text.template import TemplateFault, render_each
from raft_core.references import resolve
from raft_core.rewards.base import RewardConfig, ScoredText, reward_identity, texts
from raft_core.rewards.returned import Failure
from raft_core.types import Prompt

_REPLY = "RAFTREPLY"
_REFUSED = "the classifier's chat template cannot render this"
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
    """A transformers sequence-classification model: the score of one label, or of a single output."""

    loads_weights: ClassVar[bool] = True
    type: Literal["classifier"] = "classifier"
    model: str = Field(description="a folder, or example:EXAMPLE/reward")
    label: str | None = Field(None, description="which output; none: the only one")
    text: ScoredText = "prompt_and_completion"
    chat_template: bool | None = Field(
        None,
        description="true: score prompt and completion as turns of the model's chat template; false: as plain "
        "text; must be set where the folder has a template",
    )
    template_date: Day | None = Field(None, description="the date for a chat template that prints today's")
    batch_size: int = Field(64, ge=1, description="texts of one forward pass")
    max_tokens: int = Field(256, ge=1, description="longer texts are cut by the tokenizer")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.chat_template and self.text == "completion":
            raise ValueError("chat_template renders the prompt too; set text: prompt_and_completion")
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
    """What renders prompt and completion as turns; None: they are one plain concatenation."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
        """One logit a sample; in its place a Failure for one that the chat template refuses."""
        if self.template is None:
            return [*self._logits(texts(self.text, prompts, completions))]
        rendered = _rendered(self.template, self.tokenizer, [p.text for p in prompts], completions)
        logits = iter(self._logits([text for text in rendered if isinstance(text, str)]))
        return [next(logits) if isinstance(text, str) else Failure.of(f"{_REFUSED}: {text}") for text in rendered]

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

        A decoder reads its score at the last token that is not ``config.pad_token_id``, so rows are padded with that
        id. A model that has none reads the very last token: padding is then an id that none of the rows holds, and
        an end of text that closes a reply is read, not skipped.
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
    """The model in the folder that ``config`` names, on the GPU where there is one.

    Raises InputError for a folder that cannot be used, ConfigError for a label or length that the model lacks.
    """
    return _load(config, _load_model, model_digest)


def load_without_weights(config: ClassifierRewardConfig) -> ClassifierReward:
    """As ``load``, by the headers of the weights alone: it finds the same faults within seconds, and cannot score."""
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
    template = _template(folder, tokenizer, config)
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
            expected="a folder in transformers format (config.json, …)",
            hint="correct `model` of the reward; it is relative to the current folder",
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"no weights in {folder}",
            expected="*.safetensors (other formats can carry code, and are not loaded)",
            hint="save the model again with save_pretrained()",
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            f"no tokenizer in {folder}",
            expected=f"one of {', '.join(_TOKENIZER_FILES)}",
            hint="save the tokenizer that the model was trained with into the same folder",
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
            f"classification model cannot be loaded: {folder}",
            got=error,
            hint="fetch a file that was cut again; a model that needs Python code of its own cannot be loaded",
        ) from error
    check_complete(folder, loading, model=type(model).__name__)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _outline(folder: Path) -> Any:
    """The model without memory for its weights; that its head is among them is read from the files' headers."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shapes = check_weights(folder)
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(settings, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            f"classification model cannot be loaded: {folder}",
            got=error,
            hint="a model that needs Python code of its own cannot be loaded; see the message above",
        ) from error
    heads = [name for name, _ in model.named_parameters() if _HEAD.match(name)]
    if missing := [name for name in heads if name not in shapes]:
        raise InputError(
            f"the weights in {folder} lack the head of a classifier",
            got=f"no {', '.join(missing[:3])}",
            expected="a model that was trained to classify or to score",
            hint="name the folder of such a model",
        )
    return model


def _template(folder: Path, tokenizer: Any, config: ClassifierRewardConfig) -> str | None:
    """The template that renders what is scored; None for plain text. Which of the two is never guessed."""
    if config.chat_template is None and tokenizer.chat_template:
        raise ConfigError(
            f"the classifier in {folder} has a chat template: is it to be used?",
            got="no `chat_template`",
            expected="the form of text that it was trained on",
            hint="set chat_template of the reward: true (prompt and "
            "completion as turns, usual for reward models of chats) or false (one plain concatenation)",
        )
    if not config.chat_template:
        return None
    template = chat_template(tokenizer, config.template_date)
    try:
        (text,) = _rendered(template, tokenizer, ["Hello"], [_REPLY])
        if not isinstance(text, str):
            raise RewardError(_REFUSED, got=text)
    except RewardError as fault:
        raise InputError(str(fault), hint="set chat_template: false, or mend the template") from None
    if _REPLY not in text:
        raise InputError(
            f"the chat template of {folder} leaves the reply out",
            got=text[:200],
            expected="the completion in the text",
            hint="set chat_template: false, or mend the template",
        )
    return template


def _rendered(
    template: str, tokenizer: Any, prompts: Sequence[str], completions: Sequence[str]
) -> list[str | TemplateFault]:
    """Each prompt as a user's turn, its completion as the reply; a fault in the place of one that is refused.

    Raises RewardError where all of them together take too long.
    """
    conversations = [
        [*turns(prompt, None), {"role": "assistant", "content": completion}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    special = dict(tokenizer.special_tokens_map)
    try:
        return render_each(template, conversations, special)
    except TemplateFault as fault:
        raise RewardError(_REFUSED, got=fault) from None


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"tokenizer cannot be loaded: {folder}", got=error, hint="save it again, beside the model"
        ) from error
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer in {folder} has no token to pad with", hint="set its pad_token and save it"
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
        f"which label of {folder} is the reward?",
        got="no `label`" if label is None else f"label: {label}",
        expected=f"one of {', '.join(labels)}",
        hint="set `label` of the reward",
    )


def _max_tokens(folder: Path, model: Any, tokenizer: Any, config: ClassifierRewardConfig) -> int:
    most = min(getattr(model.config, "max_position_embeddings", None) or config.max_tokens, tokenizer.model_max_length)
    if config.max_tokens > most:
        raise ConfigError(
            f"max_tokens {config.max_tokens} is more than {folder} can read",
            expected=f"at most {most}",
            hint=f"set max_tokens: {most}",
        )
    return config.max_tokens
