"""The chat template of a classifier: whether to use it, and prompts and completions rendered by it.

Every text is rendered in a child process with limits (``policies.text.template``), because every text is new.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_core.errors import ConfigError, InputError, RewardError
from raft_core.policies.text.chat import chat_template, turns
from raft_core.policies.text.template import TemplateFault, render_each

REFUSED = "the classifier's chat template cannot render this sample"
_REPLY = "RAFTREPLY"


def template_of(folder: Path, tokenizer: Any, wanted: bool | None, day: str | None) -> str | None:
    """The chat template that renders the scored texts; None for plain text. Which one to use is never guessed."""
    if wanted is None and tokenizer.chat_template:
        raise ConfigError(
            f"the classifier in {folder} has a chat template, and the reward does not say whether to use it",
            got="no `chat_template`",
            expected="chat_template: true or false, according to the texts that the model was trained on",
            hint="set chat_template of the reward: true (prompt and completion as turns; usual for reward models of "
            "chats) or false (prompt and completion as one plain text)",
        )
    if not wanted:
        return None
    template = chat_template(tokenizer, day)
    try:
        (text,) = rendered(template, tokenizer, ["Hello"], [_REPLY])
        if not isinstance(text, str):
            raise RewardError(REFUSED, got=text)
    except RewardError as fault:
        raise InputError(
            f"the chat template of {folder} cannot render a prompt and a completion",
            got=fault.got,
            expected="a template that renders a user's turn and a reply",
            hint="set chat_template of the reward: false, or correct the template",
        ) from None
    if _REPLY not in text:
        raise InputError(
            f"the chat template of {folder} leaves out the reply, so completions would not be scored",
            got=text[:200],
            expected="a text that contains the completion",
            hint="set chat_template of the reward: false, or correct the template",
        )
    return template


def rendered(
    template: str, tokenizer: Any, prompts: Sequence[str], completions: Sequence[str]
) -> list[str | TemplateFault]:
    """Each prompt as a user's turn and its completion as the reply; a TemplateFault for one that does not render.

    Raises RewardError if all of them together exceed the limits of time or memory.
    """
    conversations = [
        [*turns(prompt, None), {"role": "assistant", "content": completion}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    special = dict(tokenizer.special_tokens_map)
    try:
        return render_each(template, conversations, special)
    except TemplateFault as fault:
        raise RewardError(REFUSED, got=fault) from None
