"""The rewards that select, and the gold rewards that only watch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raft_core.config_model import ConfigModel, Day, Share

ScoredText = Annotated[Literal["completion", "prompt_and_completion"], Field(description="what the reward reads")]


class RewardConfig(ConfigModel):
    """What every reward has: a name (the column of its scores) and a weight in the sum."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_\-]*$", description="none: its type")
    weight: float = Field(1.0, description="factor of its score in the sum; may be negative")


class FunctionRewardConfig(RewardConfig):
    """A plain Python function: ``module:function``, or ``path/to/file.py:function``."""

    type: Literal["function"] = "function"
    function: str = Field(pattern=r"^.+:[A-Za-z_]\w*$", description="module:function, or path/to/file.py:function")
    batched: bool = Field(True, description="true: lists in, a list out; false: one sample at a time")
    files: tuple[str, ...] = Field((), description="what else the function reads; a change of it scores anew")


class ClassifierRewardConfig(RewardConfig):
    """A transformers sequence-classification model: the score of one label, or of a single output."""

    type: Literal["classifier"] = "classifier"
    model: str = Field(description="a folder, or embedded:WORLD/reward")
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


class LinearRewardConfig(RewardConfig):
    """A linear model on TF-IDF features (``embedded`` trains one as a gold reward)."""

    type: Literal["linear"] = "linear"
    model: str = Field(description="a folder, or embedded:WORLD/gold")
    text: ScoredText = "prompt_and_completion"


class LexiconRewardConfig(RewardConfig):
    """VADER's compound sentiment in [−1, 1]; or the mean of your own word scores, if a file is given."""

    type: Literal["lexicon"] = "lexicon"
    file: str | None = Field(None, description="lines of WORD<tab>SCORE; none: VADER")
    text: ScoredText = "prompt_and_completion"


AnyRewardConfig = Annotated[
    FunctionRewardConfig | ClassifierRewardConfig | LinearRewardConfig | LexiconRewardConfig,
    Field(discriminator="type"),
]


class ScoringConfig(ConfigModel):
    """The rewards that select, and the gold rewards that only watch."""

    rewards: tuple[AnyRewardConfig, ...] = Field(min_length=1, description="their weighted sum ranks the candidates")
    gold: tuple[AnyRewardConfig, ...] = Field((), description="told in every evaluation, never seen by selection")
    max_failed_share: Share = Field(0.05, description="the run stops when more samples than this cannot be scored")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [reward_name(r) for r in (*self.rewards, *self.gold)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two rewards are called {', '.join(twice)}; give each its own name")
        return self


def reward_name(config: RewardConfig) -> str:
    """The column name of a reward's scores."""
    return config.name or str(config.type)  # type: ignore[attr-defined]
