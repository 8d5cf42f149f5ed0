"""Prompts and replies as the turns of a chat, and the template that renders them. Loads no torch."""

from typing import Any

from raft_core.errors import InputError
from raft_core.policies.text.template import dated, reads_clock

Tokenizer = Any
"""A tokenizer of transformers (their classes are untyped here)."""


def chat_template(tokenizer: Tokenizer, day: str | None) -> str:
    """The tokenizer's chat template, with ``day`` for today where it asks for the date.

    Raises InputError where there is none to use, or no day for one that prints it.
    """
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise InputError(
            "the tokenizer has no chat template to use",
            got=str(error).splitlines()[0],
            expected="one, or one called default",
            hint="put a chat_template.jinja into the folder, or set chat_template: false",
        ) from error
    if day is None and reads_clock(template):
        raise InputError(
            "the chat template prints the date, and no date is fixed",
            got="template_date: none",
            expected="a date: prompts would differ by the day, also when a run is resumed",
            hint="set template_date: YYYY-MM-DD beside chat_template (a new run fills in the policy's, not a reward's)",
        )
    return template if day is None else dated(template, day)


def turns(text: str, system_prompt: str | None) -> list[dict[str, str]]:
    """A prompt as the turns of a chat."""
    opening = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    return [*opening, {"role": "user", "content": text}]
