"""Evaluate: one sample of each held-out prompt, every reward, perplexity, and the scorecard."""

import json
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.evaluation.scorecard import batch_report, held_out_report, paired_gain
from raft_core.policies.base import LoadedPolicy, Progress
from raft_core.records.artifacts import file_digest, json_digest, write_json
from raft_core.records.run import BASE, Run
from raft_core.records.steps import StepKey, StepRecord, once
from raft_core.records.tables import EVALUATION, SAMPLES, SCORED, SELECTED, read_table, to_table, write_table
from raft_core.rewards.score import load_rewards
from raft_core.types import Prompt, Sample
from tasks.iteration import Iteration, derived_seed
from tasks.prepare import perplexity_texts
from tasks.shards import sample_shards


def evaluate(it: Iteration, held_out: Sequence[Prompt], progress: Progress, warn: Callable[[str], None]) -> StepRecord:
    """Write ``evaluation``, ``perplexity.json`` and the scorecard ``report.json``."""
