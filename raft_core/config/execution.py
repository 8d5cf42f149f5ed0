"""Where the work is done. Decides no byte of a result, so it is no part of a run's identity."""

from typing import Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel


class ExecutionConfig(ConfigModel):
    """Where the shards of sampling and scoring are made: in this process, or by the workers of a Ray cluster."""

    shards: Literal["local", "ray"] = Field("local", description="ray needs the extra: pip install 'raft-mlops[ray]'")
    scoring: Literal["shards", "local"] = Field(
        "shards", description="local: in this process all the same, for a reward that remembers what it scored before"
    )
    address: str | None = Field(None, description="of the cluster, such as ray://host:10001; none: one on this machine")
    workers: int | None = Field(None, ge=1, description="of a cluster on this machine; none: one a core")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.shards == "local" and (self.address or self.workers):
            raise ValueError("address and workers need execution.shards: ray; set it, or remove them")
        if self.address and self.workers:
            raise ValueError("a cluster that is there has its own number of workers; remove workers, or address")
        return self
