"""The configuration of the tabular policy; a module of its own, since numpy takes a tenth of a second to load."""

from typing import ClassVar, Literal

from pydantic import Field

from raft_core.config.model import ConfigModel


class TabularPolicyConfig(ConfigModel):
    """A table of probabilities instead of a language model, for tests and for learning: a run takes seconds."""

    type: Literal["tabular"] = "tabular"
    model: str = Field(description="folder with tabular.json and probabilities.safetensors")

    template_date: ClassVar[None] = None
    trust_remote_code: ClassVar[bool] = False
