"""Where the work is done. It changes no byte of a result, so it is not part of a run's identity."""

from typing import Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel


class ExecutionConfig(ConfigModel):
    """Where sampling and scoring run: in this process, or on the workers of a Ray cluster.

    Both work in shards of `sampling.shard_prompts` prompts. Where a shard runs changes no result, so these keys
    are not part of a run's identity. For example, on a cluster that is already running:
    `execution: {shards: ray, address: "ray://host:10001"}`.
    """

    shards: Literal["local", "ray"] = Field(
        "local",
        description="`local`: one shard after another in this process; `ray`: on Ray workers, which needs "
        "`pip install 'raft-mlops[ray]'`",
    )
    scoring: Literal["shards", "local"] = Field(
        "shards",
        description="`shards`: scoring runs where `execution.shards` says; `local`: always in this process, for a "
        "reward that remembers earlier calls",
    )
    address: str | None = Field(
        None,
        description="address of a running Ray cluster, such as `ray://host:10001`; null: start one on this machine",
    )
    workers: int | None = Field(
        None, ge=1, description="number of workers of the cluster on this machine; null: one per core"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.shards == "local" and (self.address or self.workers):
            raise ValueError("address and workers need execution.shards: ray; set it, or remove address and workers")
        if self.address and self.workers:
            raise ValueError(
                "a running cluster (address) decides its own number of workers; remove workers, or remove address"
            )
        return self
