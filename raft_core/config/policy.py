"""What is aligned: one class per modality."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from raft_core.config.model import ConfigModel, Day
from raft_core.policies.tabular.settings import TabularPolicyConfig


class TextPolicyConfig(ConfigModel):
    """The language model to align: a decoder-only model that transformers loads with AutoModelForCausalLM.

    `type` may be left out: a policy without it is a text policy. For a base model `policy: {model: models/mine}` is
    enough; for a chat model write `policy: {model: models/mine-instruct, chat_template: true}`.
    """

    type: Literal["text"] = "text"
    model: str = Field(
        description="folder with config.json, tokenizer files and weights in safetensors; or `example:EXAMPLE/policy`. "
        "Ids of the Hugging Face hub are not fetched: run `hf download ID --local-dir models/NAME` first"
    )
    chat_template: bool = Field(
        False,
        description="true: send each prompt as the user's turn of the model's chat template; false: the model "
        "continues the prompt as plain text. Set it to true for chat models",
    )
    system_prompt: str | None = Field(
        None, description="text of a system turn before each prompt; needs `chat_template: true`; null: no system turn"
    )
    template_date: Day | None = Field(
        None,
        description="date that a chat template prints as today's, such as `2026-01-31`; null: the day on which the run "
        "starts, for the whole run",
    )
    max_prompt_tokens: int = Field(
        256, ge=1, description="maximum length of a prompt in tokens; a longer one is reported before sampling starts"
    )
    trust_remote_code: bool = Field(
        False,
        description="true: allow transformers to run Python code from the model folder; only for code that you have "
        "read. The run records this setting",
    )

    @model_validator(mode="after")
    def _needs_template(self) -> Self:
        if self.system_prompt is not None and not self.chat_template:
            raise ValueError("system_prompt needs chat_template: true; set it, or put the text into the prompts")
        if self.template_date is not None and not self.chat_template:
            raise ValueError("template_date needs chat_template: true; set it, or remove template_date")
        return self


def _modality(given: object) -> str:
    """The policy's ``type``; text if it is left out."""
    kind: object = given.get("type", "text") if isinstance(given, dict) else getattr(given, "type", "text")
    return str(kind)


PolicyConfig = Annotated[
    Annotated[TextPolicyConfig, Tag("text")] | Annotated[TabularPolicyConfig, Tag("tabular")], Discriminator(_modality)
]
"""What is aligned: one class per modality."""
