"""Find out before weights are loaded what cannot work: folder, config.json, weights, tokenizer, template, lengths."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import InputError
from raft_core.files.artifacts import model_files
from raft_core.files.plain_json import read_json
from raft_core.policies.hub import download_command
from raft_core.policies.text.chat import Tokenizer, chat_template, turns
from raft_core.policies.text.checkpoint import check_weights
from raft_core.policies.text.ends import check_ends
from raft_core.policies.text.model import context_length, encode_prompts, load_tokenizer
from raft_core.policies.text.plain import plain_config
from raft_core.policies.text.structure import check_architecture, check_tensors, check_tokenizer
from raft_core.policies.text.template import TemplateFault, reads_clock, render_in_child
from raft_core.references import resolve
from raft_core.types import Prompt

ADAPTER = "adapter_config.json"
SHOWN = 3
"""Number of prompts that an error quotes."""
ANY_DAY = "2000-01-01"
"""Placeholder for the day on which a run will start."""


def check(config: TextPolicyConfig, prompts: Sequence[Prompt], sampling: SamplingConfig) -> list[str]:
    """Raise InputError or IntegrityError for a model or a prompt that cannot be used, without loading weights.

    Returns warnings: what works, but should be known before anything is sampled.
    """
    folder = model_folder_of(config)
    config = config.model_copy(update={"template_date": config.template_date or ANY_DAY})
    deque(model_files(folder), maxlen=0)  # raises for broken links and for pipes
    model_config = _model_config(folder, config)
    rows = check_tensors(folder, model_config, check_weights(folder), config)
    tokenizer = load_tokenizer(folder, config)
    check_tokenizer(folder, tokenizer, rows)
    if config.chat_template and not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer in {folder} has no chat template",
            got="policy.chat_template: true",
            expected="a chat template in tokenizer_config.json or chat_template.jinja",
            hint="set policy.chat_template: false if it is a base model; for a chat model copy its chat_template.jinja "
            "into the folder",
        )
    if config.chat_template:
        _check_template(tokenizer, prompts, config, folder)
    _check_prompts(prompts, tokenizer, config, sampling, context_length(model_config))
    return [*_date_notes(tokenizer, config), *check_ends(folder, model_config, tokenizer, config, sampling)]


def asks_for_date(config: TextPolicyConfig) -> bool:
    """Whether prompts are rendered by a template that prints the date, and the configuration sets no date."""
    if not config.chat_template or config.template_date is not None:
        return False
    tokenizer = load_tokenizer(model_folder_of(config), config)
    return bool(tokenizer.chat_template) and reads_clock(chat_template(tokenizer, ANY_DAY))


def _date_notes(tokenizer: Tokenizer, config: TextPolicyConfig) -> list[str]:
    if not config.chat_template or not reads_clock(chat_template(tokenizer, config.template_date)):
        return []
    fixed = "the day on which the run starts" if config.template_date == ANY_DAY else config.template_date
    return [f"the chat template prints a date: {fixed}, for the whole run (policy.template_date)"]


def model_folder_of(config: TextPolicyConfig) -> Path:
    """The folder that ``policy.model`` names. Raises InputError if it does not exist or holds no whole model."""
    folder = resolve(config.model)
    if not folder.is_dir():
        fetch = download_command(config.model, "model")
        raise InputError(
            f"model folder not found: {folder}",
            got="a file" if folder.exists() else None,
            expected="a folder with config.json, tokenizer files and safetensors weights; relative paths start at the "
            "current directory",
            hint=f"`{fetch}`, then set policy.model: {fetch.rpartition(' ')[2]} (for a gated or private model run "
            "`hf auth login` first)"
            if fetch and not folder.parent.is_dir()
            else "set policy.model to the path of such a folder, or to example:tiny/policy to try raft out",
        )
    if (folder / ADAPTER).exists():
        raise _adapter(folder)
    if not (folder / "config.json").exists() and (found := sorted(folder.glob("snapshots/*/config.json"))):
        raise InputError(
            f"{folder} is an entry of the Hugging Face cache, not a model folder",
            got=f"a folder with {len(found)} snapshots" if len(found) > 1 else "a folder with 1 snapshot",
            expected="the folder of a snapshot, which contains config.json",
            hint=f"set policy.model: {found[-1].parent}",
        )
    return folder


def _adapter(folder: Path) -> InputError:
    """The error for a PEFT adapter as the policy. (With a config.json, transformers would apply it silently.)"""
    try:
        base = str(read_json(folder / ADAPTER)["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        base = "its base model"
    if base.startswith("sha256:"):  # RAFT's own
        do = (
            "run `raft merge RUN@N FOLDER`, which writes the policy of iteration N as one model, and set policy.model: "
        )
        do += "FOLDER"
    else:
        do = (
            f'merge it into {base[:200]}: `python -c "from peft import AutoPeftModelForCausalLM as A; '
            f"A.from_pretrained('{folder}').merge_and_unload().save_pretrained('merged')\"`, copy the tokenizer files "
            "of the base model into merged/, and set policy.model: merged"
        )
    return InputError(
        f"policy.model is a PEFT adapter, not a whole model: {folder}",
        got=f"{ADAPTER}, an adapter of {base[:200]}",
        expected="a whole model: base and adapter merged",
        hint=do,
    )


def _model_config(folder: Path, config: TextPolicyConfig) -> Any:
    from transformers import AutoConfig
    from transformers import __version__ as transformers_version

    path = folder / "config.json"
    fields = plain_config(folder)
    if fields.get("quantization_config"):
        raise InputError(
            f"the weights in {folder} are quantized, which cannot be trained",
            got="quantization_config in config.json",
            expected="weights in float32, float16 or bfloat16",
            hint="use the unquantized model; or load this one with transformers, dequantize() and save_pretrained() it",
        )
    if fields.get("transformers_weights"):
        raise InputError(
            f"{path} names another file for the weights",
            got=f"transformers_weights: {fields['transformers_weights']}",
            expected="weights in model.safetensors, or in shards with model.safetensors.index.json",
            hint="rename the weights to model.safetensors, and remove transformers_weights from config.json",
        )
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"transformers cannot read {path}",
            got=error,
            expected=f"a model that transformers {transformers_version} knows",
            hint="set policy.trust_remote_code: true, if you have read and trust the Python code in that folder"
            if "auto_map" in fields and not config.trust_remote_code
            else "check that config.json is complete and that its model_type is one that this version knows",
        ) from error
    check_architecture(folder, fields, found)
    return found


def _check_template(tokenizer: Tokenizer, prompts: Sequence[Prompt], config: TextPolicyConfig, folder: Path) -> None:
    """Render all prompts in a child process with limits, before this process renders any."""
    conversations = [turns(prompt.text, config.system_prompt) for prompt in prompts]
    try:
        render_in_child(
            chat_template(tokenizer, config.template_date), conversations, dict(tokenizer.special_tokens_map)
        )
    except TemplateFault as fault:
        raise InputError(
            f"the chat template of {folder} cannot render the prompts",
            got=fault,
            expected="a template that renders every prompt within the limits of time and memory",
            hint="remove policy.system_prompt if the template does not support a system turn, correct the template, or "
            "set policy.chat_template: false",
        ) from None


def _check_prompts(
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: TextPolicyConfig,
    sampling: SamplingConfig,
    context: int | None,
) -> None:
    lengths = [len(ids) for ids in encode_prompts(tokenizer, prompts, config)]
    if empty := [p for p, length in zip(prompts, lengths, strict=True) if not length or not p.text.strip()]:
        raise InputError(
            f"{len(empty)} prompts are empty",
            got=_named(empty),
            expected="at least one token in each prompt",
            hint="remove them from the prompts file",
        )
    limit = config.max_prompt_tokens
    why, change = "policy.max_prompt_tokens", "raise policy.max_prompt_tokens"
    if context is not None and context - sampling.max_new_tokens < limit:
        limit = context - sampling.max_new_tokens
        why = f"the model's context of {context} tokens minus sampling.max_new_tokens {sampling.max_new_tokens}"
        change = "lower sampling.max_new_tokens"
    long = sorted(((n, p) for p, n in zip(prompts, lengths, strict=True) if n > limit), key=lambda pair: -pair[0])
    if long:
        raise InputError(
            f"{len(long)} of {len(prompts)} prompts are longer than {limit} tokens ({why})",
            got=_named([p for _, p in long], [n for n, _ in long]),
            expected=f"at most {limit} tokens per prompt",
            hint=f"{change}, or shorten or remove these prompts",
        )


def _named(prompts: Sequence[Prompt], lengths: Sequence[int] = ()) -> str:
    sizes = [f" ({n} tokens)" for n in lengths] or [""] * len(prompts)
    shown = [f"{p.text[:50]!r}{size}" for p, size in zip(prompts[:SHOWN], sizes, strict=False)]
    return ", ".join(shown) + (f" and {len(prompts) - SHOWN} more" if len(prompts) > SHOWN else "")
