"""MLflow and DVC."""

from pydantic import Field

from raft_core.config.model import ConfigModel


class TrackingConfig(ConfigModel):
    """MLflow. The address is MLFLOW_TRACKING_URI, else a sqlite file in the workspace."""

    experiment: str = Field("raft", description="name of the MLflow experiment; created if missing")
    model_name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.\-]+$", description="registered model; none: raft-NAME")


class VersioningConfig(ConfigModel):
    """DVC."""

    enabled: bool = Field(True, description="false: no pointers, nothing in DVC")
    push: bool = Field(True, description="push each iteration to the default remote")
    push_limit_s: int = Field(600, ge=1, description="a push over the network that takes longer is made up for later")
