"""The configuration of the tabular policy; apart from its code, since numpy takes a tenth of a second to load."""

from typing import ClassVar, Literal

from pydantic import Field

from raft_core.config.model import ConfigModel


class TabularPolicyConfig(ConfigModel):
    """A table of probabilities, for tests and for learning: the whole loop runs on it in seconds."""

    type: Literal["tabular"] = "tabular"
    model: str = Field(description="a folder with tabular.json and probabilities.safetensors")

    template_date: ClassVar[None] = None
    trust_remote_code: ClassVar[bool] = False
