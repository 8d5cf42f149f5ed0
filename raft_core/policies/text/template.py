"""Chat templates: first render every prompt in a child process with limits, since a template is a foreign program.

transformers runs templates in jinja's sandbox, so none reaches Python's objects. But the sandbox limits neither time
nor memory. So a separate child process with limits renders all prompts first; a template that passes there renders
the same texts later. (This file is also the program of that child.)

A template may ask for the date (transformers' ``strftime_now``): it gets a fixed date, at midnight, so that a run's
prompts do not change from day to day. A template that produces random text is refused.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CPU_S, WALL_S, EACH_S = 30, 120, 0.01
"""Limits of rendering *all* prompts, in seconds: processor time, and wall time (including the import of transformers);
and what each prompt adds to both."""
MEMORY_BYTES = 2 << 30
"""Memory that rendering may use in addition to what transformers uses."""
MAX_CHARS = 1 << 20
"""Maximum number of characters of one rendered prompt."""
REPEATED, TIMES = 8, 32
"""How many prompts are rendered repeatedly, and how often, to find a template that produces random text."""
CLOCK = "strftime_now"
"""The only clock that transformers offers to a template."""


def reads_clock(template: str) -> bool:
    """Whether a template may print the date: no other name gives access to a clock."""
    return CLOCK in template


def dated(template: str, day: str) -> str:
    """``template`` with ``day`` (2026-01-31) instead of today's date, whenever it is rendered.

    A macro replaces the clock and every directive of its format. It ends with a line break, so that jinja still trims
    what follows as the start of a template.
    """
    if not reads_clock(template):
        return template
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    values = {f"%{letter}": moment.strftime(f"%{letter}") for letter in "aAbBcdDeFfgGhHIjmMpPrRsSTuUVwWxXyY"}
    values |= {f"%-{letter}": moment.strftime(f"%-{letter}") for letter in "dHIjmMSUVWy"}
    values |= {"%z": "", "%Z": ""}  # as with the clock of transformers, which has no time zone
    replaced = "".join(f"|replace('{directive}', '{value}')" for directive, value in values.items())
    body = f"format|replace('%%', '\\x00'){replaced}|replace('\\x00', '%')"
    return f"{{% macro {CLOCK}(format) %}}{{{{ {body} }}}}{{% endmacro %}}\n{template}"


class TemplateFault(Exception):
    """Why a template cannot be used."""


def render_in_child(
    template: str,
    turns: Sequence[Sequence[dict[str, str]]],
    special: dict[str, Any],
    *,
    open_reply: bool = True,
    wanted: bool = False,
) -> list[str]:
    """Render every one of ``turns`` within the limits above. Raises TemplateFault.

    ``open_reply``: add the start of the reply. Returns the texts only if they are ``wanted``.
    """
    asked = {"template": template, "turns": turns, "special": special, "open_reply": open_reply, "wanted": wanted}
    texts: list[str] = _ask_child({**asked, "each": False})
    return texts


def render_each(
    template: str, turns: Sequence[Sequence[dict[str, str]]], special: dict[str, Any]
) -> list[str | TemplateFault]:
    """As ``render_in_child``, for whole conversations: a conversation that fails gives a TemplateFault in its place.

    Raises TemplateFault if all of them together exceed the limits.
    """
    asked = {"template": template, "turns": turns, "special": special, "open_reply": False, "wanted": True}
    return [
        answer if isinstance(answer, str) else TemplateFault(*answer) for answer in _ask_child({**asked, "each": True})
    ]


def _ask_child(asked: dict[str, Any]) -> list[Any]:
    turns = asked["turns"]
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    wall_s = WALL_S + EACH_S * len(turns)
    try:
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), capture_output=True, check=False, timeout=wall_s
        )
    except subprocess.TimeoutExpired:
        raise TemplateFault(f"rendering did not end within {wall_s:.0f} s") from None
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode:
        raise TemplateFault(
            last
            or f"rendering took more than {CPU_S + EACH_S * len(turns):.0f} s or {MEMORY_BYTES >> 30} GiB "
            f"(exit code {done.returncode})"
        )
    answers: list[Any] = json.loads(last)
    return answers


def _limit(prompts: int) -> None:
    """Limit time and memory from here on; the kernel enforces this, whatever the template does."""
    with Path("/proc/self/statm").open() as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime + CPU_S + EACH_S * prompts),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(asked: dict[str, Any]) -> list[Any]:
    """The texts, if wanted; with ``each``, a list of one message for a conversation that could not be rendered."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(turns: Sequence[dict[str, str]]) -> str:
        try:
            (text,), _ = render_jinja_template(
                conversations=[turns],
                chat_template=asked["template"],
                add_generation_prompt=asked["open_reply"],
                **asked["special"],
            )
        except Exception as error:  # a template can raise anything
            raise TemplateFault(f"{type(error).__name__}: {str(error)[:500]}") from None
        return str(text)

    _limit(len(asked["turns"]))

    def checked(number: int, turns: Sequence[dict[str, str]]) -> str:
        rendered = render(turns)
        if number < REPEATED and any(render(turns) != rendered for _ in range(TIMES)):
            raise TemplateFault("it renders the same prompt differently each time")
        if len(rendered) > MAX_CHARS:
            raise TemplateFault(
                f"it turns {sum(len(turn['content']) for turn in turns):,} characters into {len(rendered):,} "
                f"(at most {MAX_CHARS:,})"
            )
        return rendered

    texts: list[Any] = []
    for number, turns in enumerate(asked["turns"]):
        try:
            rendered: Any = checked(number, turns)
        except TemplateFault as fault:
            if not asked["each"]:
                raise
            rendered = [str(fault)]
        if asked["wanted"]:
            texts.append(rendered)
    return texts


if __name__ == "__main__":
    try:
        answer = json.dumps(_render(json.loads(sys.stdin.buffer.read())))
    except TemplateFault as fault:
        sys.stdout.write(f"\n{' '.join(str(fault).split())}\n")
        sys.exit(1)
    sys.stdout.write(f"\n{answer}\n")
