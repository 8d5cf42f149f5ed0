"""What a table must hold before it is used."""

from pydantic import Field

from raft_core.config.model import ConfigModel, RegularExpression, Share


class ValidationConfig(ConfigModel):
    """Limits of the Great Expectations suites. Row failures quarantine, set failures stop the run."""

    min_valid_per_prompt: int = Field(1, ge=1, description="a prompt with fewer valid samples is dropped, counted")
    min_prompt_coverage: Share = Field(0.5, description="share of prompts that must reach the selected set")
    reward_min: float | None = Field(None, description="a lower reward quarantines its sample; none: no bound")
    reward_max: float | None = Field(None, description="a higher reward quarantines its sample; none: no bound")
    min_completion_chars: int = Field(1, ge=0, description="a shorter completion is quarantined")
    max_quarantined_share: Share = Field(0.25, description="the run stops when more samples than this are")
    min_stop_share: Share = Field(0.0, description="share of samples whose response ended")
    max_length_drift: float = Field(3.0, gt=1, description="mean length against the previous iteration, as a factor")
    max_duplicate_share: Share = Field(0.9, description="share of samples equal to another of their prompt")
    max_tie_share: Share = Field(1.0, description="share of prompts whose best reward is shared")
    min_signal_share: Share = Field(
        0.01,
        description="minimum share of prompts whose candidates the reward tells apart; 0 lets a run without any go on",
    )
    forbidden_pattern: RegularExpression | None = Field(
        None, description="regular expression; none: nothing is forbidden"
    )
    max_forbidden_share: Share = Field(0.05, description="share of samples that may match it")
    surge_characters: str = Field("#@|<>{}[]\\", description="characters whose surge is watched")
    max_surge: float = Field(0.02, ge=0, description="largest rise of one's share of all characters in an iteration")
    max_held_out_overlap: Share = Field(0.0, description="share of selected prompts that are held-out prompts")
