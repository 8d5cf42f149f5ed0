"""Why a sample was selected or dropped, for a person."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.text import harmless, number
from tasks.audit.explain import Explanation

MAX_CHARS = 300
STYLES = {"selected": "green", "dropped": "yellow", "quarantined": "red"}


def show_explanation(found: Explanation) -> RenderableType:
    """The sample, its scores, the rule that decided, and the other samples of its prompt."""
    sample, prompt = found.sample, found.prompt
    drawn = (
        f"source {harmless(sample['source'])}, sample number {sample['k']} of the prompt, seed {sample['seed']}, "
        f"ended by {harmless(sample['finish_reason'])}"
    )
    facts = [
        ("prompt", harmless(prompt["text"], MAX_CHARS)),
        ("", _origin(prompt)),
        ("completion", harmless(sample["completion"], MAX_CHARS)),
        ("", drawn),
        ("reward", _reward(found)),
        *(("failed check", _check(row)) for row in found.failed_checks),
    ]
    head = Text.assemble(
        (f"sample {harmless(sample['sample_id'])}  ", "bold"),
        (found.fate, f"bold {STYLES[found.fate]}"),
        f"  iteration {found.iteration} of run {harmless(found.run)}",
    )
    lines = [Text.assemble((f"{name:<13}", "dim"), fact) for name, fact in facts]
    return Group(head, Text(harmless(found.because)), *lines, _rivals(found))


def _check(row: Mapping[str, Any]) -> str:
    text = f"{row['suite']}: {row['check']}, observed {row['observed']}, expected {row['expected']}"
    return harmless(text, MAX_CHARS)


def _origin(prompt: Mapping[str, Any]) -> str:
    named = [f"{name} {harmless(str(prompt[name]), 80)}" for name in ("prompt_id", "group", "source") if prompt[name]]
    return ", ".join(named)


def _reward(found: Explanation) -> str:
    if found.reward is None:
        return "none"
    terms = [
        f"{harmless(name)} {score:.4f}" + ("" if (weight := found.weights.get(name, 1.0)) == 1 else f" × {weight:g}")
        for name, score in found.components.items()
    ]
    return f"{found.reward:.4f} = {' + '.join(terms)}" if terms else f"{found.reward:.4f}"


def _rivals(found: Explanation) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("rank", "reward", "number", "result", "sample", "completion"):
        right = title in ("rank", "reward", "number")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "completion")
    for rival in found.rivals:
        table.add_row(
            str(rival.rank or "–"),
            number(rival.reward, 4),
            str(rival.k),
            Text(rival.fate, style=STYLES[rival.fate]),
            Text(harmless(rival.sample_id[:12])),
            Text(harmless(rival.completion, MAX_CHARS)),
            style="bold" if rival.sample_id == found.sample["sample_id"] else "",
        )
    return table
