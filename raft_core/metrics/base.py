"""What a metric is: the figures that it adds to each iteration's report, how they are shown, and their gates.

A metric of your own is a subclass of ``Metric`` in one file, plus one line: in ``raft_core.metrics.registry``, or in an
installed package an entry point of the group ``raft.metrics`` (``raft_core.plugins``). Ours are always computed; one of
another package is computed where ``evaluation.metrics`` names it. The report, MLflow, the tables, the pages and the
gates read the metrics from here; none of them names a metric.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.config.model import ConfigModel

if TYPE_CHECKING:  # loaded where they compute: every command reads a configuration
    import pyarrow as pa

    from raft_core.config.run import RaftConfig
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the report, and how people see it.

    ``title``: its full name. ``column`` and ``short``: its heading in a run's table, and on a narrow terminal.
    ``meaning``: one line for readers who do not know it. ``better``: the wanted direction. ``rank``: its place in that
    table, 0 is the first; on a narrow terminal the highest ranks are left out; None: it is not in the table.
    ``headline``: one of the few that pages draw as charts. ``interval``: the report also has ``NAME_low`` and
    ``NAME_high``, the ends of its confidence interval.
    """

    name: str
    title: str
    meaning: str = ""
    column: str = ""
    short: str = ""
    decimals: int = 3
    better: Literal["higher", "lower", ""] = ""
    percent: bool = False
    rank: int | None = None
    headline: bool = False
    interval: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """What is added to the name in the report: nothing, and the ends of the interval."""
        return ("", "_low", "_high") if self.interval else ("",)


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit on a figure that ``gates.KEY`` switches on. ``rule``, for the value v of the key:

    at_most       the figure is at most v
    rise          it is at most (1 + v) × its value in ``since``
    factor        it is at least v × its value in ``since``
    added         it is at most v more than its value in ``since``
    either_way    it lies between its value in ``since`` / v and × v

    ``since``: the report that it is compared with, the base policy's or that of iteration 0. ``remedy``: what helps,
    other than a wider limit. ``only_stops``: a breach ends the run, but the iteration may still be the best one.
    """

    key: str
    figure: str
    rule: Literal["at_most", "rise", "factor", "added", "either_way"]
    remedy: str
    since: Literal["base", "first"] = "base"
    only_stops: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The training batch of an iteration: its SCORED, SELECTED and (if any) QUARANTINE tables."""

    scored: "pa.Table"
    selected: "pa.Table"
    quarantine: "pa.Table | None" = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that a metric can use.

    ``evaluation``: the EVALUATION table, one sample of each held-out prompt. ``text_logprobs``: log p of every token of
    each fixed text (``evaluation.perplexity_text``), none without such a text. ``batch`` and ``losses`` (one per
    optimiser step): of the iteration's training, None and none for the base policy. ``then``: the EVALUATION table of
    ``gates.convergence_window`` iterations ago, where there is one.
    """

    evaluation: "pa.Table"
    config: "RaftConfig"
    iteration: int
    text_logprobs: Sequence[Sequence[float]] = ()
    batch: Batch | None = None
    losses: Sequence[float] = ()
    then: "pa.Table | None" = None


class Metric(ConfigModel, ABC):
    """A metric: its settings, and how it is computed. Subclasses set ``type`` to a literal of their own."""

    type: str

    figures: ClassVar[tuple[Figure, ...]] = ()
    gates: ClassVar[tuple[Gate, ...]] = ()
    """Limits that have a key of their own in ``gates``: for RAFT's metrics only, others are limited by gates.limits."""
    needs_batch: ClassVar[bool] = False
    """Whether it is about the training batch; if so, the base policy's report has none of its figures."""

    @abstractmethod
    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """Figure → value, None where there is nothing to measure. Nested mappings are allowed, for the report alone."""

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterable[Finding]":
        """The gates of promotion on this metric: candidate against reference on the same prompts.

        Every gate applies to a bound of an interval (``raft_core.promotion.findings``).
        """
        return ()


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean(values: Sequence[float]) -> float | None:
    """Their mean; None without any."""
    return sum(values) / len(values) if values else None
