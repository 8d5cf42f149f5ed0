"""Causal language models of transformers: load, merge, encode prompts, compute the logits that are needed."""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import InputError, IntegrityError
from raft_core.policies.completeness import check_complete, without_report
from raft_core.policies.text.adapter import apply_adapter
from raft_core.policies.text.chat import Tokenizer, chat_template, turns
from raft_core.policies.text.rounding import to_bfloat16
from raft_core.types import Policy, Prompt

Model = Any
"""A transformers causal language model (their classes are untyped here)."""
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "deepspeed")


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_folder(policy: Policy) -> Path:
    """The folder with configuration and tokenizer: for an adapter, the folder of its base."""
    return policy.base.path if policy.base else policy.path


def load_tokenizer(folder: Path, config: TextPolicyConfig) -> Tokenizer:
    """The tokenizer in ``folder``. Raises InputError if it is missing or does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            clean_up_tokenization_spaces=False,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise InputError(
            f"the tokenizer in {folder} cannot be loaded",
            got=f"{type(error).__name__}: {error}",
            expected="tokenizer.json (or the files of a slow tokenizer) next to config.json",
            hint="copy the tokenizer files (tokenizer.json, tokenizer_config.json, …) from where the model came from",
        ) from error


def load_weights(folder: Path, config: TextPolicyConfig) -> Model:
    """The model in ``folder``, float32, on the CPU, with every tensor read from the checkpoint.

    Raises InputError if it is not a causal language model, or if the checkpoint's tensors do not match the model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with without_report(), torch.random.fork_rng(devices=[]):  # building a model draws numbers
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("mismatch|LOAD REPORT|above report", str(error)):
            raise  # memory, for one
        raise InputError(
            f"the model in {folder} cannot be loaded as a causal language model",
            got=f"{type(error).__name__}: {error}",
            expected="config.json and safetensors weights of a model that AutoModelForCausalLM can load",
            hint="copy or download the whole checkpoint again, or set policy.model to a decoder-only language model",
        ) from error
    check_complete(folder, loading, model=type(model).__name__)
    return model


def load_policy(policy: Policy, config: TextPolicyConfig) -> Model:
    """The policy as a model without adapter, float32: an adapter is merged into a copy of its base.

    All parameters require gradients, even those that peft froze: torch multiplies [N, 1, H] by a frozen
    head row by row, and copies the whole head for each row (half the time of a batch's prefill).
    """
    model = load_weights(model_folder(policy), config)
    if policy.base is not None:
        model = apply_adapter(model, policy.path, policy.base.digest, trainable=False).merge_and_unload()
    return model.requires_grad_(True)


def load_sampled(policy: Policy, config: TextPolicyConfig, dtype: str) -> Model:
    """The policy as it is sampled and scored: the model of ``load_policy`` in ``dtype`` on its device."""
    model, where = load_policy(policy, config), device()
    return (to_bfloat16(model, where) if dtype == "bfloat16" else model.to(where)).eval()


def eos_token_ids(model: Model, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a response of a model in memory."""
    return end_token_ids(getattr(model, "generation_config", None), model.config, tokenizer)


def end_token_ids(generation_config: Any, config: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a response, from the generation config, else the config, else the tokenizer."""
    for owner in (generation_config, config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def known_token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that the tokenizer can turn into text; a model's vocabulary may be padded beyond them."""
    return frozenset(int(token) for token in tokenizer.get_vocab().values())


def context_length(config: Any) -> int | None:
    """Number of positions that the model supports; None if its configuration sets no limit."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt], config: TextPolicyConfig) -> list[list[int]]:
    """Token ids of each prompt: plain text, or a user turn of the chat template followed by the start of the reply."""
    if config.chat_template:
        template = chat_template(tokenizer, config.template_date)
        return [_encode_turns(tokenizer, template, prompt.text, config.system_prompt) for prompt in prompts]
    return [encode_text(tokenizer, prompt.text) for prompt in prompts]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text that will be continued: with the tokenizer's opening tokens, without a closing one."""
    ids = list(tokenizer(text).input_ids)
    bare = tokenizer(text, add_special_tokens=False).input_ids
    if ids and ids[-1] == tokenizer.eos_token_id and (not bare or bare[-1] != tokenizer.eos_token_id) and len(ids) > 1:
        ids.pop()
    return ids


def _encode_turns(tokenizer: Tokenizer, template: str, text: str, system_prompt: str | None) -> list[int]:
    from jinja2 import TemplateError

    spoken = turns(text, system_prompt)
    try:
        ids = tokenizer.apply_chat_template(
            spoken, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise InputError(
            "the model's chat template cannot render the prompts",
            got=error,
            expected=f"a template that supports these turns: {', '.join(t['role'] for t in spoken)}",
            hint="remove policy.system_prompt, or set policy.chat_template: false",
        ) from error
    return cast(list[int], ids)


def accepted_arguments(model: Model) -> frozenset[str]:
    """Names of the arguments of the model's forward pass."""
    return frozenset(inspect.signature(type(model).forward).parameters)


def masked_logits(model: nn.Module, inputs: dict[str, Tensor], mask_BT: Tensor, *, head: nn.Module | None) -> Tensor:
    """Logits [N, V] at the N true positions of ``mask_BT`` alone, in row-major order.

    The vocabulary head is half the cost of a small model: its input is gathered before it is applied.
    ``model`` may be a wrapper (an engine) of the model that ``head`` belongs to.
    """
    if head is None:
        return cast(Tensor, model(**inputs, use_cache=False).logits[mask_BT])
    num_positions = int(mask_BT.sum())

    def gather(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][mask_BT].unsqueeze(0), *arguments[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        logits = cast(Tensor, model(**inputs, use_cache=False).logits)
    finally:
        handle.remove()
    if logits.shape[:2] != (1, num_positions):
        raise IntegrityError(
            f"raft cannot compute logits at chosen positions with the architecture {type(model).__name__}",
            got=f"logits of shape {tuple(logits.shape)}",
            expected=f"logits of shape {(1, num_positions)} and the vocabulary",
            hint="set policy.model to another architecture, and report this one as an issue",
        )
    return logits[0]


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn what torch raises when memory runs out, on any device, into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text or "out of memory" in text:
            raise MemoryError(str(error).splitlines()[0]) from None
        raise


def numerics(dtype: str) -> dict[str, Any]:
    """The determinism fingerprint: what besides the inputs decides the last bits of results.

    The number of threads does, because it changes how a float32 product is split.
    """
    where = device()
    if where.type == "cuda":
        processor: dict[str, Any] = {"gpu": torch.cuda.get_device_name(where)}
    else:
        processor = {
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": _bfloat16_units(),
            "threads": torch.get_num_threads(),
        }
    return {"device": where.type, **processor, "dtype": dtype, **{name: version(name) for name in LIBRARIES}}


def _bfloat16_units() -> str:
    found = torch.cpu.get_capabilities()
    return "amx" if found.get("amx_bf16") else "avx512" if found.get("avx512_bf16") else "none"
