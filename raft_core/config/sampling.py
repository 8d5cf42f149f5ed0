"""How candidates are drawn."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel, Fraction


class SamplingConfig(ConfigModel):
    """How candidates are drawn: each iteration takes some prompts and samples several completions of each.

    For example `sampling: {prompts_per_iteration: 64, samples_per_prompt: 8, max_new_tokens: 64}` draws 512 completions
    per iteration. More `samples_per_prompt` give a stronger choice and cost proportionally more time. In the paper
    these are b, K and λ (`temperature`).
    """

    prompts_per_iteration: int = Field(
        48, ge=1, description="prompts used in each iteration (b of the paper); at most the number of training prompts"
    )
    samples_per_prompt: int = Field(
        8,
        ge=1,
        description="completions sampled of each prompt (K of the paper); selection needs more than 1 to choose",
    )
    temperature: float = Field(
        0.85,
        ge=0,
        le=10,
        description="λ of the paper; higher values give more varied completions; 0: always the likeliest token",
    )
    top_p: Fraction = Field(
        1.0, description="sample only from the likeliest tokens that together have this probability; 1: from all tokens"
    )
    top_k: int = Field(0, ge=0, description="sample only from this many likeliest tokens; 0: no limit")
    max_new_tokens: int = Field(
        128,
        ge=1,
        description="maximum length of a completion in tokens; one that reaches it is cut off (finish reason `length`)",
    )
    min_new_tokens: int = Field(0, ge=0, description="a completion cannot end before it has this many tokens")
    stop: tuple[str, ...] = Field(
        (), description='strings that end a completion, such as `["\\n", "."]`; the string stays part of the completion'
    )
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="ids of tokens that end a completion, in addition to the end-of-sequence token; they are not part "
        "of the text that rewards see",
    )
    skip_special_tokens: bool = Field(
        False,
        description="true: rewards see completions without special tokens such as `<think>`; `stop` matches special "
        "tokens either way",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="number format of the weights for sampling and for measuring KL and perplexity; bfloat16 is "
        "rounded stochastically, so that small updates are not lost",
    )
    shard_prompts: int = Field(
        16,
        ge=1,
        description="prompts per shard; a shard is the unit of work that is stored and that a Ray worker gets; with "
        "smaller shards an interruption costs less work",
    )
    batch_prompts: int | Literal["auto"] = Field(
        "auto",
        description="prompts of a shard that are decoded together; `auto`: the whole shard, and fewer when memory runs "
        "out",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.temperature == 0 and self.samples_per_prompt > 1:
            raise ValueError(
                f"temperature 0 gives {self.samples_per_prompt} equal samples per prompt; "
                "set temperature above 0, or samples_per_prompt: 1"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}; "
                "change one of the two"
            )
        if any(not text for text in self.stop):
            raise ValueError("stop contains an empty string, which would end every completion at once; remove it")
        return self
