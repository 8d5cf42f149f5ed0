"""Check before weights are loaded whether the tokens that end a completion are those that the model writes."""

from pathlib import Path
from typing import Any

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import ConfigError
from raft_core.policies.text.chat import Tokenizer, chat_template, turns
from raft_core.policies.text.model import end_token_ids, known_token_ids
from raft_core.policies.text.template import TemplateFault, render_in_child

_REPLY = "RAFTREPLY"


def check_ends(
    folder: Path, model_config: Any, tokenizer: Tokenizer, config: TextPolicyConfig, sampling: SamplingConfig
) -> list[str]:
    """Warn about a chat model whose end-of-turn token does not end a completion.

    Raises ConfigError for an unknown stop token.
    """
    if unknown := sorted(set(sampling.stop_token_ids) - known_token_ids(tokenizer)):
        raise ConfigError(
            "sampling.stop_token_ids contains ids that the model's tokenizer does not have",
            got=unknown,
            expected=f"token ids of the tokenizer in {folder}",
            hint="look the ids up in tokenizer.json in that folder, under added_tokens",
        )
    ends = end_token_ids(_generation_config(folder, model_config), model_config, tokenizer)
    turn = end_of_turn(tokenizer, config) if config.chat_template else None
    if turn is None or turn in ends.union(sampling.stop_token_ids):
        return []
    name = tokenizer.convert_ids_to_tokens(turn)
    if name in sampling.stop:
        return []
    shown = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in sorted(ends)) or "none"
    return [
        f"the chat template ends a reply with {name} ({turn}), but that token does not end a completion (these do: "
        f"{shown}), so most completions may run to sampling.max_new_tokens; set sampling.stop_token_ids: "
        f"{[*sampling.stop_token_ids, turn]}"
    ]


def end_of_turn(tokenizer: Tokenizer, config: TextPolicyConfig) -> int | None:
    """The special or added token that the chat template writes directly after a reply; None without one."""
    conversation = [*turns("Hello", config.system_prompt), {"role": "assistant", "content": _REPLY}]
    special = dict(tokenizer.special_tokens_map)
    try:
        (text,) = render_in_child(
            chat_template(tokenizer, config.template_date), [conversation], special, open_reply=False, wanted=True
        )
    except TemplateFault:  # it renders every prompt, which is all that sampling needs
        return None
    _, found, behind = text.rpartition(_REPLY)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False).input_ids if found and behind.strip() else []
    own = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return int(ids[0]) if ids and ids[0] in own else None


def _generation_config(folder: Path, model_config: Any) -> Any:
    """The generation config that ``from_pretrained`` gives a model: from its file, or else from its configuration."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError):
        return GenerationConfig.from_model_config(model_config)
