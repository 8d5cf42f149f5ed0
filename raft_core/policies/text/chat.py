"""Prompts and replies as the turns of a chat, and the template that renders them. Loads no torch."""

from typing import Any

from raft_core.errors import InputError
from raft_core.policies.text.template import dated, reads_clock

Tokenizer = Any
"""A tokenizer of transformers (their classes are untyped here)."""


def chat_template(tokenizer: Tokenizer, day: str | None) -> str:
    """The tokenizer's chat template; one that prints today's date prints ``day`` instead.

    Raises InputError if there is no usable template, or no ``day`` for one that prints the date.
    """
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise InputError(
            f"the tokenizer in {tokenizer.name_or_path} has no usable chat template",
            got=str(error).splitlines()[0],
            expected="one chat template, or several of which one is called default",
            hint="put a chat_template.jinja into the model folder, or set chat_template: false",
        ) from error
    if day is None and reads_clock(template):
        raise InputError(
            f"the chat template in {tokenizer.name_or_path} prints today's date, and template_date is not set",
            got="template_date: null",
            expected="a fixed date; otherwise the texts would change from day to day, also when a run is resumed",
            hint="set template_date: YYYY-MM-DD next to chat_template (for the policy a new run sets it to its first "
            "day by itself, for a reward it does not)",
        )
    return template if day is None else dated(template, day)


def turns(text: str, system_prompt: str | None) -> list[dict[str, str]]:
    """A prompt as the turns of a chat."""
    opening = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    return [*opening, {"role": "user", "content": text}]
