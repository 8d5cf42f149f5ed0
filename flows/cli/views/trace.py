"""What a prompt, sample, source or text was used for, for a person."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.forgetting.forgotten_before import ForgottenBefore
from flows.lineage.tracing import Traced
from flows.text import counted, harmless, number
from raft_core.audit.trace import Model, Use
from raft_core.records.run import BASE

MAX_CHARS = 160


def show_trace(traced: Traced, most: int, gone: Sequence[ForgottenBefore] = ()) -> RenderableType:
    """Whether it was forgotten before; then prompts, samples, iterations and models."""
    trace = traced.trace
    samples, selected = (sum(getattr(i, name) for i in trace.iterations) for name in ("samples", "selected"))
    parts: list[RenderableType] = [
        Text(
            f"{counted(trace.num_prompts, 'prompt')}, {counted(samples, 'sample')}, {selected:,} of them selected",
            style="bold",
        )
    ]
    parts += [Text(_gone(one, still_here=bool(trace.iterations)), style="yellow") for one in gone]
    if trace.unseen:
        parts.append(
            Text(
                f"! not searched, since they are not on this machine: the tables of {_some(trace.unseen)}",
                style="yellow",
            )
        )
    if not trace.iterations:
        return Group(*parts)
    parts += [
        Text.assemble((f"prompt {prompt_id}  ", "dim"), harmless(text, MAX_CHARS))
        for prompt_id, text in list(trace.prompts.items())[:most]
    ]
    if trace.uses:
        parts.append(_uses(trace.uses[:most]))
    if samples > most:
        parts.append(Text(f"and {counted(samples - most, 'more sample')} (to list all: -n {samples})", style="dim"))
    parts.append(_iterations(traced))
    direct = [m for m in trace.models if m.through is None]
    parts.append(_models("models trained on it", direct, traced))
    parts.append(_models("models trained from these", [m for m in trace.models if m.through is not None], traced))
    return Group(*parts)


def _gone(one: ForgottenBefore, *, still_here: bool) -> str:
    when = one.time[:16].replace("T", " ") + " UTC" if one.time else "an unknown date"
    erased = f"erased from {_some(one.erased_from)}" if one.erased_from else "not erased"
    rows = "rows of it are here" if still_here else "no row of it is here"
    return harmless(f"{one.value} was forgotten on {when}: later runs do not use it; {erased}, and {rows}")


def _uses(uses: Sequence[Use]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("sample", "iteration", "number", "reward", "result", "completion"):
        right = title in ("number", "reward")
        table.add_column(title, no_wrap=title != "completion", justify="right" if right else "left")
    for use in uses:
        fate = f"selected, rank {use.rank}" if use.selected else "dropped" if use.status == "ok" else use.status
        table.add_row(
            Text(harmless(use.sample_id[:12])),
            Text(harmless(f"{use.run}@{use.iteration}")),
            str(use.k),
            number(use.reward, 3),
            Text(harmless(fate), style="green" if use.selected else "dim"),
            Text(harmless(use.completion or "", MAX_CHARS)),
        )
    return table


def _iterations(traced: Traced) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("used in", "committed (UTC)", "prompts", "samples", "selected"):
        left = title in ("used in", "committed (UTC)")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for i in traced.trace.iterations:
        name = f"{i.run}@{i.iteration}" if i.iteration != BASE else f"{i.run}@base (held-out prompts, never trained on)"
        when = traced.committed.get(f"{i.run}@{i.iteration}", "–")[:19].replace("T", " ")
        table.add_row(Text(harmless(name)), when, f"{i.prompts:,}", f"{i.samples:,}", f"{i.selected:,}")
    return table


def _models(title: str, models: Sequence[Model], traced: Traced) -> Text:
    named = []
    for model in models:
        name = f"{model.run}@{'base' if model.iteration == BASE else model.iteration}"
        version = traced.registered.get(f"{model.run}@{model.iteration}")
        named.append(f"{name} ({version})" if version else name)
    return Text.assemble((f"{title}: ", "bold"), harmless(_some(named, 40)) if named else "none")


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
