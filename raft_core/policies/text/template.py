"""A model's chat template is a program of somebody else: render every prompt once where it can do no harm.

transformers runs templates in jinja's sandbox, so none reaches Python's objects. The sandbox bounds neither time
nor memory: before anything else, a child process of its own with limits renders all prompts. What passed
there renders the same way later. (This file is that child's program, too.)
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU_S, WALL_S = 30, 120
"""Seconds that rendering *all* prompts may take: of the processor, and in all (loading transformers included)."""
MEMORY_BYTES = 2 << 30
"""Memory that rendering may take on top of what transformers takes."""
MAX_CHARS = 1 << 20
"""Characters of one rendered prompt."""


def render_in_child(template: str, turns: Sequence[Sequence[dict[str, str]]], special: dict[str, Any]) -> str | None:
    """Render every one of ``turns`` within the limits above. Returns why it cannot be used; None: it can."""
    asked = json.dumps({"template": template, "turns": turns, "special": special}).encode()
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, check=False, timeout=WALL_S)
    except subprocess.TimeoutExpired:
        return f"it did not end within {WALL_S} s"
    if done.returncode == 0:
        return None
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    return last or f"it took more than {CPU_S} s or {MEMORY_BYTES >> 30} GiB (ended with {done.returncode})"


def _limit() -> None:
    """From here on, time and memory are bounded; the kernel enforces it, whatever the template does."""
    with Path("/proc/self/statm").open() as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + CPU_S,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(asked: dict[str, Any]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit()
    for turns in asked["turns"]:
        try:
            (rendered,), _ = render_jinja_template(
                conversations=[turns], chat_template=asked["template"], add_generation_prompt=True, **asked["special"]
            )
        except Exception as error:  # whatever a template raises is its own fault
            return f"{type(error).__name__}: {str(error)[:500]}"
        if len(rendered) > MAX_CHARS:
            return f"it makes {len(rendered):,} characters of {sum(len(turn['content']) for turn in turns):,}"
    return None


if __name__ == "__main__":
    fault = _render(json.loads(sys.stdin.buffer.read()))
    if fault is not None:
        sys.stdout.write(f"\n{' '.join(fault.split())}\n")
        sys.exit(1)
