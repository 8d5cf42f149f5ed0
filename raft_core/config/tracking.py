"""MLflow and DVC."""

from pydantic import Field

from raft_core.config.model import ConfigModel


class TrackingConfig(ConfigModel):
    """How a run appears in MLflow.

    The server is not set here but by the environment variable MLFLOW_TRACKING_URI; without it MLflow uses the file
    `mlflow.db` in the workspace. For example `tracking: {experiment: support-bot}`.
    """

    experiment: str = Field("raft", description="name of the MLflow experiment; created if it does not exist")
    model_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.\-]+$",
        description="name under which the policy is registered as an MLflow model; null: `raft-` and the "
        "configuration's `name`",
    )


class VersioningConfig(ConfigModel):
    """How a run's tables and weights are versioned with DVC.

    Each iteration is added to DVC and pushed to the default remote, if there is one. For example
    `versioning: {push: false}` keeps everything on this machine.
    """

    enabled: bool = Field(True, description="false: write nothing for DVC")
    push: bool = Field(True, description="true: push each iteration to DVC's default remote, if one is set up")
    push_limit_s: int = Field(
        600,
        ge=1,
        description="seconds that a push to a network remote may take; a longer one is stopped and repeated after the "
        "next iteration, or by `raft sync`",
    )
