"""Where prompts come from."""

from typing import Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel, Fraction, Share


class PromptsConfig(ConfigModel):
    """The prompts: a file to train on, and prompts set apart to measure the policy.

    Formats: `.jsonl` (one object per line), `.csv`, `.tsv`, `.parquet` (each with a text column), or `.txt` with one
    prompt per line; all but Parquet also as `.gz`. Further columns are optional: `reference` (a reference answer that
    rewards may read), `group` (results are also reported per group) and `source` (where the prompt comes from). For
    example `prompts: {train: prompts.jsonl}`, where a line of the file is `{"text": "2 + 2 =", "reference": "4"}`.
    """

    train: str = Field(description="file of the prompts to train on; or `example:EXAMPLE/prompts.train`")
    held_out: str | None = Field(
        None,
        description="file of prompts on which every iteration is evaluated; none of them may be in `train`; null: "
        "`held_out_share` of `train` is set apart instead",
    )
    promotion: str | None = Field(
        None,
        description="file of prompts that only `raft promote` uses, so that the decision rests on prompts that no "
        "earlier choice has seen; none of them may be in the other two files; null: see `promotion_share`",
    )
    text_column: str = Field("text", description="name of the column or key that holds the prompt; not used for `.txt`")
    held_out_share: Fraction = Field(
        0.1, description="share of `train` set apart for evaluation (0.1 = 10 %); only used when `held_out` is null"
    )
    promotion_share: Share = Field(
        0.0, description="share of `train` set apart for `raft promote`; 0: none; cannot be combined with `promotion`"
    )
    max_held_out: int = Field(
        256,
        ge=1,
        description="maximum number of held-out prompts to evaluate on, always the same ones; more give narrower "
        "intervals and take longer",
    )

    @model_validator(mode="after")
    def _one_source_of_promotion_prompts(self) -> Self:
        if self.promotion is not None and self.promotion_share > 0:
            raise ValueError("promotion and promotion_share are both set; remove one of the two")
        return self
