"""How candidates are drawn."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel, Fraction


class SamplingConfig(ConfigModel):
    """How candidates are drawn (paper: b, K, λ)."""

    prompts_per_iteration: int = Field(48, ge=1, description="b of the paper")
    samples_per_prompt: int = Field(8, ge=1, description="K of the paper")
    temperature: float = Field(0.85, ge=0, le=10, description="λ of the paper; 0 is greedy")
    top_p: Fraction = Field(1.0, description="smallest set of tokens with this probability; 1: all")
    top_k: int = Field(0, ge=0, description="0: no limit")
    max_new_tokens: int = Field(128, ge=1, description="a completion that reaches it is cut: finish reason length")
    min_new_tokens: int = Field(0, ge=0, description="no end of sequence before so many")
    stop: tuple[str, ...] = Field((), description="a completion ends after the first of these strings and keeps it")
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="more tokens that end a completion, like the end of sequence; its text leaves the end out"
    )
    skip_special_tokens: bool = Field(
        False, description="true: rewards see completions without special tokens; stop strings match them either way"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of the weights that are sampled and scored; bfloat16 rounds them without bias"
    )
    shard_prompts: int = Field(16, ge=1, description="prompts of one shard: its composition never changes")
    batch_prompts: int | Literal["auto"] = Field("auto", description="prompts of a shard decoded together; auto: all")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.temperature == 0 and self.samples_per_prompt > 1:
            raise ValueError(
                f"temperature 0 gives {self.samples_per_prompt} equal samples a prompt; "
                "set temperature above 0, or samples_per_prompt: 1"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}")
        if any(not text for text in self.stop):
            raise ValueError("an empty stop string ends every completion at once; remove it")
        return self
