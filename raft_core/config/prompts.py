"""Where prompts come from."""

from typing import Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel, Fraction, Share


class PromptsConfig(ConfigModel):
    """Where prompts come from: JSON lines, CSV or Parquet with a text column, or plain text, one per line."""

    train: str = Field(description="a file, or example:EXAMPLE/prompts.train")
    held_out: str | None = Field(None, description="a file; none: a share of train is set apart")
    promotion: str | None = Field(None, description="a file that promotion alone reads, disjoint from both others")
    text_column: str = Field("text", description="of JSON lines and Parquet; ignored for plain text")
    held_out_share: Fraction = Field(0.1, description="share of train set apart when held_out is none")
    promotion_share: Share = Field(0.0, description="share of train set apart for promotion alone")
    max_held_out: int = Field(256, ge=1, description="held-out prompts used in every evaluation")

    @model_validator(mode="after")
    def _one_source_of_promotion_prompts(self) -> Self:
        if self.promotion is not None and self.promotion_share > 0:
            raise ValueError("promotion and promotion_share are both set; leave one of them out")
        return self
