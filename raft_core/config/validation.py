"""What a table must hold before it is used."""

from pydantic import Field

from raft_core.config.model import ConfigModel, RegularExpression, Share


class ValidationConfig(ConfigModel):
    """What samples, rewards and the selected set must be like (checked with Great Expectations).

    A sample that breaks a limit is quarantined: kept in the records, never trained on. If a limit on a whole set is
    broken, the run stops with exit code 3 before anything is trained. For example
    `validation: {reward_min: -8, reward_max: 8, forbidden_pattern: "(?i)https?:"}`.
    """

    min_valid_per_prompt: int = Field(
        1, ge=1, description="a prompt with fewer valid samples is left out of this iteration"
    )
    min_prompt_coverage: Share = Field(
        0.5,
        description="minimum share of the iteration's prompts that have enough valid samples, and later a selected one",
    )
    reward_min: float | None = Field(
        None, description="a sample with a lower reward is quarantined; null: no lower limit"
    )
    reward_max: float | None = Field(
        None, description="a sample with a higher reward is quarantined; null: no upper limit"
    )
    min_completion_chars: int = Field(
        1, ge=0, description="a completion with fewer characters (not counting white space) is quarantined"
    )
    max_quarantined_share: Share = Field(
        0.25, description="maximum share of quarantined samples; with more the run stops"
    )
    min_stop_share: Share = Field(
        0.0, description="minimum share of samples that ended by themselves instead of being cut at max_new_tokens"
    )
    max_length_drift: float = Field(
        3.0,
        gt=1,
        description="the mean length may be at most this many times that of the previous iteration, and at least its "
        "1/factor",
    )
    max_duplicate_share: Share = Field(
        0.9, description="maximum share of samples that equal another sample of the same prompt"
    )
    max_tie_share: Share = Field(
        1.0, description="maximum share of prompts whose highest reward is reached by several samples; 1: not limited"
    )
    min_signal_share: Share = Field(
        0.01,
        description="minimum share of prompts whose candidates get different rewards; 0: a run in which the reward "
        "separates nothing continues with a warning",
    )
    forbidden_pattern: RegularExpression | None = Field(
        None,
        description="regular expression; a completion that contains a match is quarantined; null: nothing is forbidden",
    )
    max_forbidden_share: Share = Field(
        0.05, description="maximum share of samples that match `forbidden_pattern`; with more the run stops"
    )
    surge_characters: str = Field(
        "#@|<>{}[]\\", description="characters to watch for a sudden rise, a usual sign that the reward is exploited"
    )
    max_surge: float = Field(
        0.02,
        ge=0,
        description="maximum rise from one iteration to the next of the share that one watched character has of all "
        "characters",
    )
    max_held_out_overlap: Share = Field(0.0, description="maximum share of selected prompts that are held-out prompts")
