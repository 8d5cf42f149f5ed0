"""What is aligned: one class a modality."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from raft_core.config.model import ConfigModel, Day
from raft_core.policies.tabular.settings import TabularPolicyConfig


class TextPolicyConfig(ConfigModel):
    """A causal language model of transformers."""

    type: Literal["text"] = "text"
    model: str = Field(description="a folder in transformers format, or example:EXAMPLE/policy")
    chat_template: bool = Field(False, description="render each prompt as a user turn; false: plain text")
    system_prompt: str | None = Field(None, description="a system turn before it; needs chat_template")
    template_date: Day | None = Field(
        None,
        description="what the template takes for today if it prints the date; none: the day on which the run began",
    )
    max_prompt_tokens: int = Field(256, ge=1, description="a longer prompt is refused before sampling")
    trust_remote_code: bool = Field(False, description="run Python code that the model folder brings; recorded")

    @model_validator(mode="after")
    def _needs_template(self) -> Self:
        if self.system_prompt is not None and not self.chat_template:
            raise ValueError("system_prompt needs chat_template: true; set it, or put the text into the prompts")
        if self.template_date is not None and not self.chat_template:
            raise ValueError("template_date needs chat_template: true; set it, or remove template_date")
        return self


def _modality(given: object) -> str:
    """Text, unless something else is said."""
    kind: object = given.get("type", "text") if isinstance(given, dict) else getattr(given, "type", "text")
    return str(kind)


PolicyConfig = Annotated[
    Annotated[TextPolicyConfig, Tag("text")] | Annotated[TabularPolicyConfig, Tag("tabular")], Discriminator(_modality)
]
"""What is aligned: one class a modality."""
