"""Trace a prompt, sample, source or text: which iterations drew it, which samples of it were selected, and which
policies were trained on it, directly or through a policy that they were trained from.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from raft_core.audit.index import Index
from raft_core.errors import InputError
from raft_core.records.policy_ref import policy_name

By = Literal["text", "prompt", "sample", "source"]
MOST_LISTED = 1000
"""At most so many prompts and samples are listed; all are counted."""
FEWEST_DIGITS = 6
"""Digits that an abbreviated id must have at least."""


@dataclass(frozen=True, slots=True)
class Use:
    """One sample of an iteration. ``rank`` (1 the best of its prompt) is None for one that was not selected."""

    run: str
    iteration: int
    prompt_id: str
    sample_id: str
    k: int
    source: str
    reward: float | None
    status: str
    rank: int | None
    completion: str | None
    """None for a sample that was not selected: its text is in the ``samples`` table of the iteration."""

    @property
    def selected(self) -> bool:
        """Whether the next policy was trained on it."""
        return self.rank is not None


@dataclass(frozen=True, slots=True)
class Touched:
    """One iteration that drew what was traced. ``iteration`` −1: held-out prompts, never trained on."""

    run: str
    iteration: int
    prompts: int
    samples: int
    selected: int


@dataclass(frozen=True, slots=True)
class Model:
    """A policy that was trained on it. ``through``: RUN@N of the ancestor that was; None: the policy itself was."""

    run: str
    iteration: int
    policy: str
    through: str | None


@dataclass(frozen=True, slots=True)
class Trace:
    """What was found. ``prompts``: id → text. Lists hold at most ``MOST_LISTED``; ``iterations`` counts everything."""

    prompts: Mapping[str, str]
    num_prompts: int
    iterations: tuple[Touched, ...]
    uses: tuple[Use, ...]
    models: tuple[Model, ...]
    unseen: tuple[str, ...]


def find(index: Index, by: By, value: str) -> Trace:
    """Trace ``value``.

    "text" finds an exact part of a prompt or of a selected completion; "source" the source of a prompt or of a sample;
    "prompt" and "sample" take an id, or its first 6 or more digits.

    Raises InputError for an empty value, or if several ids begin with it.
    """
    if not value:
        raise InputError(
            f"--{by} is empty: there is nothing to look for", expected=f"a {by}", hint=f"write it after --{by}"
        )
    _mark(index, by, value)
    (num_prompts,) = index.rows("SELECT count(DISTINCT prompt) FROM hits")[0]
    prompts = index.rows(
        f"SELECT prompt_id, text FROM prompts SEMI JOIN hits ON number = prompt ORDER BY prompt_id LIMIT {MOST_LISTED}"
    )
    uses = index.rows(f"""
        SELECT c.run, c.iteration, p.prompt_id, h.sample_id, h.k, h.source, h.reward, h.status, h.rank, s.completion
        FROM (SELECT * FROM hits WHERE sample_id IS NOT NULL
              ORDER BY rank IS NULL, commit, prompt, k LIMIT {MOST_LISTED}) AS h
        JOIN commits AS c ON c.number = h.commit JOIN prompts AS p ON p.number = h.prompt
        LEFT JOIN selected AS s ON s.commit = h.commit AND s.sample_id = h.sample_id
        ORDER BY c.run, c.iteration, p.prompt_id, h.rank NULLS LAST, h.k""")
    touched = index.rows("""
        SELECT c.run, c.iteration, count(DISTINCT h.prompt), count(h.sample_id), count(h.rank)
        FROM hits AS h JOIN commits AS c ON c.number = h.commit GROUP BY ALL ORDER BY ALL""")
    iterations = tuple(Touched(*row) for row in touched)
    trained = {(t.run, t.iteration) for t in iterations if t.selected}
    return Trace(
        dict(prompts),
        num_prompts,
        iterations,
        tuple(Use(*row) for row in uses),
        tuple(_models(index, trained)),
        index.unseen,
    )


def meant_prompts(index: Index, by: By, value: str) -> dict[str, str]:
    """Id → text of every prompt with the id ``value``, ``value`` in its text, or ``value`` as its source.

    Unlike ``find`` it lists every one, and no prompt that only a sample leads to.
    """
    conditions = {
        "prompt": "prompt_id = ?",
        "text": "contains(text, ?)",
        "source": "number IN (SELECT prompt FROM drawn WHERE source = ?)",
    }
    return dict(index.rows(f"SELECT prompt_id, text FROM prompts WHERE {conditions[by]} ORDER BY ALL", value))


_HITS = """
CREATE OR REPLACE TEMP TABLE hits AS
SELECT d.commit, d.prompt, s.sample_id, s.k, s.source, s.reward, s.status, s.rank
FROM (SELECT DISTINCT commit, prompt FROM drawn WHERE {drawn}) AS d
LEFT JOIN samples AS s ON s.commit = d.commit AND s.prompt = d.prompt
"""
_SAMPLE_HITS = """
INSERT INTO hits
SELECT s.commit, s.prompt, s.sample_id, s.k, s.source, s.reward, s.status, s.rank FROM samples AS s
WHERE {samples} AND NOT EXISTS (SELECT 1 FROM hits AS h WHERE h.commit = s.commit AND h.sample_id = s.sample_id)
"""


def _mark(index: Index, by: By, value: str) -> None:
    """Fill ``hits``: one row per sample (or prompt without samples) that ``value`` matches."""
    ask = index.connection.execute
    if by == "prompt":
        prompt_id = _whole_id(index, "prompts", "prompt_id", value)
        ask(_HITS.format(drawn="prompt IN (SELECT number FROM prompts WHERE prompt_id = ?)"), [prompt_id])
    elif by == "sample":
        ask(_HITS.format(drawn="false"))
        sample_id = _whole_id(index, "samples", "sample_id", value)
        ask(_SAMPLE_HITS.format(samples="s.sample_id = ?"), [sample_id])
    elif by == "source":
        ask(_HITS.format(drawn="source = ?"), [value])
        ask(_SAMPLE_HITS.format(samples="s.source = ?"), [value])
    else:
        ask(_HITS.format(drawn="prompt IN (SELECT number FROM prompts WHERE contains(text, ?))"), [value])
        chosen = "(s.commit, s.sample_id) IN (SELECT (commit, sample_id) FROM selected WHERE contains(completion, ?))"
        ask(_SAMPLE_HITS.format(samples=chosen), [value])


def _whole_id(index: Index, table: str, column: str, value: str) -> str:
    """The one id that begins with ``value``; ``value`` itself if it is an id or none begins with it."""
    if len(value) < FEWEST_DIGITS or index.rows(f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1", value):
        return value
    query = f"SELECT DISTINCT {column} FROM {table} WHERE starts_with({column}, ?) LIMIT 3"
    found = [row[0] for row in index.rows(query, value)]
    if not found:
        return value
    if len(found) > 1:
        raise InputError(
            f"several ids of {table} begin with {value!r}", got=", ".join(sorted(found)), hint="give more digits"
        )
    return str(found[0])


def _models(index: Index, trained: Iterable[tuple[str, int]]) -> Iterator[Model]:
    """The policies that the iterations in ``trained`` made, and all that were trained from them, in any run."""
    direct = set(trained)
    if not direct:
        return
    rows = index.rows("SELECT run, iteration, made, sampled_from FROM commits ORDER BY run, iteration")
    through: dict[str, str] = {}
    made_by = {(run, iteration): made for run, iteration, made, _ in rows}
    for run, iteration in direct:
        through.setdefault(made_by[run, iteration], policy_name(run, iteration))
    children: dict[str, list[str]] = {}
    for _, _, made, sampled_from in rows:
        if sampled_from and made and sampled_from != made:
            children.setdefault(sampled_from, []).append(made)
    waiting = list(through)
    while waiting:
        parent = waiting.pop()
        for child in children.get(parent, ()):
            if child not in through:
                through[child] = through[parent]
                waiting.append(child)
    for run, iteration, made, _ in rows:
        if made not in through:
            continue
        itself = (run, iteration) in direct
        yield Model(run, iteration, made, None if itself else through[made])
