"""Forget a prompt, text or source: find what it touched, exclude it, withdraw the models, and erase its rows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.forgetting.prefect_database import erase_in_prefect
from raft_core.audit.index import drop_index, open_index
from raft_core.audit.trace import FEWEST_DIGITS, By, Model, Touched, find, meant_prompts
from raft_core.errors import InputError, IntegrityError, RaftError, StepError
from raft_core.files.artifacts import digest_of
from raft_core.forgetting.erasure import TOMBSTONE, read_tombstone
from raft_core.forgetting.exclusions import Exclusions, add_exclusion, read_exclusions
from raft_core.forgetting.target_rows import Target, holds, matching_prompts, parquet_files
from raft_core.promotion.ledger import Ledger, withdrawal
from raft_core.prompts.splits import load_prompts
from raft_core.records.collected import no_live_run
from raft_core.records.names import registered_name
from raft_core.records.overview import run_paths
from raft_core.records.run import BASE, Run, hold, read_chain, read_commit, read_run
from raft_core.references import resolve, split_reference
from raft_core.types import Prompt
from tasks.audit.witnesses import ask_ledger
from tasks.forgetting.erase import ErasedRows, erase_messages, erase_objects, erase_run, erase_steps
from tasks.forgetting.withdraw import Withdrawn, registered_from, withdraw
from tasks.promotion.evidence import drop_evidence, evidence_folders
from tasks.tracking.aliases import apply
from tasks.tracking.registry import Version
from tasks.tracking.runs import erase_reports

Say = Callable[[str], None]
ERASE_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What forgetting would touch; nothing is done yet. ``because`` names the reason without quoting a text."""

    because: str
    target: Target
    prompts: Mapping[str, str]
    """Id → text of every prompt to forget: drawn, held out, or in a prompt file of a run."""
    files: tuple[Path, ...]
    """The user's prompt files that hold such prompts; they are not changed."""
    prepared: tuple[Path, ...]
    """Packages of examples in RAFT's cache that hold such prompts; they are not changed either."""
    iterations: tuple[Touched, ...]
    models: tuple[Model, ...]
    versions: tuple[Version, ...]
    runs: tuple[Run, ...]
    """Runs with rows to forget, or with models that were trained on them."""
    holders: tuple[str, ...]
    """Those of ``runs`` whose tables hold such rows."""
    unseen: tuple[str, ...]


@dataclass(slots=True)
class Forgotten:
    """What was done. ``excluded`` is False if everything was already excluded."""

    excluded: bool
    withdrawn: list[Withdrawn] = field(default_factory=list)
    erased: ErasedRows | None = None


def plan(workspace: Path, by: By, value: str, tracking_uri: str) -> Plan:
    """Find everything that ``value`` touched. Raises InputError if it cannot be forgotten or is not known."""
    if by == "sample" or not value:
        raise InputError(
            "a single sample cannot be forgotten" if value else f"--{by} is empty: there is nothing to forget",
            got=f"--{by} {value}".strip(),
            expected="a prompt, a text or a source",
            hint="raft lineage forget --prompt ID, --text TEXT or --source NAME",
        )
    runs = [read_run(path) for path in run_paths(workspace)]
    with open_index(workspace / "runs") as index:
        trace = find(index, by, value)
        if by == "prompt":
            value = next(iter(trace.prompts), _excluded_id(workspace, value))
        prompts = meant_prompts(index, by, value)
    files: set[Path] = set()
    prepared: set[Path] = set()
    if by == "prompt":
        target = Target(frozenset([value]))
    else:
        target = Target(frozenset(), frozenset([value] if by == "source" else []), value if by == "text" else None)
    for run in runs:
        for path in _prompt_tables(run):
            prompts |= matching_prompts(path, target)
    for path, found, is_ours in _prompt_files(runs, target):
        prompts |= found
        (prepared if is_ours else files).add(path)
    target = Target(target.prompts | frozenset(prompts), target.sources, target.text)
    if by == "prompt" and not prompts and len(value) != 32:
        raise InputError(
            f"no run of this workspace has a prompt with id {value!r}",
            expected="a prompt_id, or its first digits",
            hint="raft lineage find --text TEXT shows the ids of prompts",
        )
    names = {t.run for t in trace.iterations} | {m.run for m in trace.models}
    label = "a text" if by == "text" else f"{by} {value}" if by == "source" else f"prompt {next(iter(target.prompts))}"
    holders = {run.name for run in runs if _holds(run, target)}
    touched = tuple(run for run in runs if run.name in names | holders or _erased_before(run, label))
    wanted = {(model.run, model.iteration) for model in trace.models}
    commits = {c.digest for run in touched for c in read_chain(run) if (run.name, c.iteration) in wanted}
    return Plan(
        label,
        target,
        prompts,
        tuple(sorted(files)),
        tuple(sorted(prepared)),
        trace.iterations,
        trace.models,
        tuple(registered_from(commits, tracking_uri)),
        touched,
        tuple(sorted(holders)),
        trace.unseen,
    )


def carry_out(
    chosen: Plan,
    workspace: Path,
    tracking_uri: str,
    ledger: Ledger,
    *,
    by: str,
    erase: bool,
    say: Say = lambda line: None,
) -> Forgotten:
    """Exclude, withdraw (in the ledger, then in MLflow), and with ``erase`` remove the rows. ``by``: who asks for it.

    Can be repeated after a kill or an outage: finished parts are not repeated.

    Raises RunBusyError, before anything is done, while any run of the workspace is running: a run reads the exclusions
    when it starts, so it could still draw what is excluded now. Raises IntegrityError if the ledger lacks an entry that
    MLflow knows.
    """
    ask_ledger([registered_name(run.config) for run in chosen.runs], tracking_uri, ledger)
    now = datetime.now(UTC).isoformat()
    known = [Prompt(prompt_id, text) for prompt_id, text in chosen.prompts.items()]
    bare = chosen.target.prompts - chosen.prompts.keys()
    with no_live_run(workspace / "runs"):
        excluded = add_exclusion(
            workspace, prompts=[*known, *sorted(bare)], sources=sorted(chosen.target.sources), time=now
        )
    done = Forgotten(excluded)
    say("excluded from every later run" if excluded else "nothing new to exclude")
    with ExitStack() as leases:
        for run in chosen.runs:
            leases.enter_context(hold(run))
        _withdraw_in_ledger(chosen, ledger, by, now)
        done.withdrawn = withdraw(chosen.versions, chosen.because, tracking_uri)
        if erase:
            done.erased = _erase(chosen, workspace, say)
            _erased_in_ledger(chosen, ledger, by, now)
            _erase_evidence(chosen, workspace, ledger, by, now, done.erased)
            _erase_reports(chosen, tracking_uri, done.erased)
            erase_in_prefect(chosen.target, _texts(chosen), done.erased)
        for missing in apply(ledger, workspace / "runs", tracking_uri):  # MLflow records the last entry
            say(missing)
    return done


def _withdraw_in_ledger(chosen: Plan, ledger: Ledger, by: str, now: str) -> None:
    """Write an entry for every model that was trained on it, registered or not, so that none can be promoted."""
    entries = ledger.entries()
    runs = {run.name: run for run in chosen.runs}
    for model in chosen.models:
        run = runs.get(model.run)
        commit = read_commit(run, model.iteration) if run and model.iteration != BASE else None
        if run is None or commit is None or withdrawal(entries, commit.digest, model.policy):
            continue
        body = {
            "commit": commit.digest,
            "policy": model.policy,
            "run": run.name,
            "iteration": model.iteration,
            "reason": f"forgotten: {chosen.because}",
            "by": by,
        }
        ledger.append("withdrawn", registered_name(run.config), body, time=now)


def _erased_in_ledger(chosen: Plan, ledger: Ledger, by: str, now: str) -> None:
    """Write an entry for every tombstone that the ledger does not have yet, which confirms its erasure.

    The body has no ``commit`` or ``policy``, because losing rows does not withdraw a model.
    """
    known = {entry.body.get("tombstone") for entry in ledger.entries() if entry.kind == "erased"}
    for run in chosen.runs:
        for commit in read_chain(run):
            tombstone = read_tombstone(run.folder(commit.iteration))
            if tombstone and chosen.because in tombstone.because and tombstone.digest not in known:
                body = {
                    "tombstone": tombstone.digest,
                    "erased_from": commit.digest,
                    "run": run.name,
                    "iteration": commit.iteration,
                    "reason": f"forgotten: {chosen.because}",
                    "by": by,
                }
                ledger.append("erased", registered_name(run.config), body, time=now)


def _erase_evidence(chosen: Plan, workspace: Path, ledger: Ledger, by: str, now: str, done: ErasedRows) -> None:
    """Remove promotion evidence with such rows; an entry records every digest that the ledger names."""
    store = workspace / "promotions"
    held = [path.relative_to(store).parts[0] for path in parquet_files([store]) if holds(path, chosen.target)]
    entries = ledger.entries()
    known = {entry.body.get("evidence") for entry in entries if entry.kind == "erased"}
    sides = {
        entry.body["evidence"][side]: (entry.model, about)
        for entry in entries
        if isinstance(entry.body.get("evidence"), dict)
        for side, about in (("candidate", entry.body), ("reference", entry.body["against"]))
    }
    for key in sorted({name.strip(".").partition(".")[0] for name in held}):
        for digest in sorted({digest_of(folder) for folder in evidence_folders(store, key)} & sides.keys() - known):
            model, about = sides[digest]
            body = {
                "evidence": digest,
                "run": about["run"],
                "iteration": about["iteration"],
                "reason": f"forgotten: {chosen.because}",
                "by": by,
            }
            ledger.append("erased", model, body, time=now)
            known.add(digest)
        drop_evidence(store, key)
        done.evidence.append(key)


def _erase_reports(chosen: Plan, tracking_uri: str, done: ErasedRows) -> None:
    """Empty the validation reports in MLflow of every iteration that lost rows, also by an interrupted call."""
    for run in chosen.runs:
        erased = [
            commit.iteration
            for commit in read_chain(run)
            if (found := read_tombstone(run.folder(commit.iteration))) and chosen.because in found.because
        ]
        try:
            if erased:
                erase_reports(run, erased, tracking_uri)
        except StepError as error:
            done.unfinished.append(f"validation reports of run {run.name} in MLflow may still quote it: {error.what}")


def _erase(chosen: Plan, workspace: Path, say: Say) -> ErasedRows:
    done = ErasedRows()
    drop_index(workspace / "runs")
    for run in chosen.runs:
        erase_run(run, chosen.target, chosen.because, workspace, done, say)
        erase_messages(run, _texts(chosen))
    limit_s = max((run.config.versioning.push_limit_s for run in chosen.runs), default=ERASE_LIMIT_S)
    erase_objects(workspace, chosen.target, done, limit_s)
    erase_steps(workspace / "runs", done.tombstones.values())
    drop_index(workspace / "runs")  # a query meanwhile may have rebuilt it
    done.left += [f"{path}: this prompt file still holds it" for path in chosen.files]
    done.left += [f"the tables of {name} are not on this machine and were not changed" for name in chosen.unseen]
    return done


def _texts(chosen: Plan) -> list[str]:
    """Texts that no message may quote any longer."""
    return [*([chosen.target.text] if chosen.target.text else []), *chosen.prompts.values()]


def _excluded_id(workspace: Path, value: str) -> str:
    """The id that begins with ``value`` and was forgotten before, so that a repeated call can finish."""
    found = [known for known in read_exclusions(workspace).prompts if known.startswith(value)]
    return found[0] if len(found) == 1 and len(value) >= FEWEST_DIGITS else value


def _erased_before(run: Run, because: str) -> bool:
    """Whether rows of ``run`` were erased before for the same reason, by a call that may have been interrupted."""
    for path in (run.path / "base" / TOMBSTONE, *run.path.glob(f"iterations/*/{TOMBSTONE}")):
        with suppress(IntegrityError):  # raft lineage verify reports edited tombstones
            tombstone = read_tombstone(path.parent)
            if tombstone is not None and because in tombstone.because:
                return True
    return False


def _prompt_tables(run: Run) -> Iterator[Path]:
    for folder in (run.path / "base", *sorted((run.path / "iterations").glob("*"))):
        if (path := folder / "tables" / "prompts.parquet").is_file():
            yield path


def _holds(run: Run, target: Target) -> bool:
    return any(holds(path, target) for path in parquet_files([run.path / "base", run.path / "iterations"]))


def _prompt_files(runs: list[Run], target: Target) -> Iterator[tuple[Path, dict[str, str], bool]]:
    """Every file that prompts of the runs come from: its path, the prompts to forget, and whether RAFT prepared it."""
    wanted = Exclusions(target.prompts, frozenset(), target.sources)
    seen: set[tuple[Path, str]] = set()
    for run in runs:
        config = run.config.prompts
        for reference in (config.train, config.held_out, config.promotion, run.config.evaluation.perplexity_text):
            try:
                path = resolve(reference) if reference else None
                if path is None or (path, config.text_column) in seen:
                    continue
                seen.add((path, config.text_column))
                prompts = load_prompts(path, config.text_column)
            except RaftError:
                continue
            found = {
                p.prompt_id: p.text
                for p in prompts
                if wanted.covers(p) or (target.text is not None and target.text in p.text)
            }
            if found:
                yield path, found, split_reference(str(reference)) is not None
