"""Causal language models of transformers: load, merge, encode prompts, ask for the logits that matter."""

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
    """The folder that holds configuration and tokenizer: an adapter's are its base's."""
    return policy.base.path if policy.base else policy.path


def load_tokenizer(folder: Path, config: TextPolicyConfig) -> Tokenizer:
    """The tokenizer in ``folder``. Raises InputError where there is none."""
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
            f"no tokenizer that loads in {folder}",
            got=f"{type(error).__name__}: {error}",
            expected="tokenizer.json (or the files of a slow tokenizer) beside config.json",
            hint="copy the tokenizer's files from where the model came from",
        ) from error


def load_weights(folder: Path, config: TextPolicyConfig) -> Model:
    """The model in ``folder``, float32, on the CPU, every tensor of it read from there.

    Raises InputError if it is no causal language model, or if the checkpoint's tensors are not the model's.
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
            f"no causal language model that loads in {folder}",
            got=f"{type(error).__name__}: {error}",
            expected="config.json and safetensors of a model that AutoModelForCausalLM knows",
        ) from error
    check_complete(folder, loading, model=type(model).__name__)
    return model


def load_policy(policy: Policy, config: TextPolicyConfig) -> Model:
    """A plain model that *is* the policy, float32: an adapter is merged into a copy of its base.

    Its parameters require gradients, also after peft froze them: torch multiplies [N, 1, H] by a frozen
    head row by row, copying the whole head for each (half the time of a batch's prefill).
    """
    model = load_weights(model_folder(policy), config)
    if policy.base is not None:
        model = apply_adapter(model, policy.path, policy.base.digest, trainable=False).merge_and_unload()
    return model.requires_grad_(True)


def load_sampled(policy: Policy, config: TextPolicyConfig, dtype: str) -> Model:
    """The policy as it is sampled and scored, on its device: what ``load_policy`` gives, in ``dtype``."""
    model, where = load_policy(policy, config), device()
    return (to_bfloat16(model, where) if dtype == "bfloat16" else model.to(where)).eval()


def eos_token_ids(model: Model, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a response, of a model in memory."""
    return end_token_ids(getattr(model, "generation_config", None), model.config, tokenizer)


def end_token_ids(generation_config: Any, config: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a response: of the generation config, else of the config, else of the tokenizer."""
    for owner in (generation_config, config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def known_token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that the tokenizer can turn into text; a model's vocabulary may be padded beyond them."""
    return frozenset(int(token) for token in tokenizer.get_vocab().values())


def context_length(config: Any) -> int | None:
    """Positions that the model was made for; None where its configuration names no limit."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt], config: TextPolicyConfig) -> list[list[int]]:
    """Token ids of each prompt: plain text, or a user turn of the chat template with the reply opened."""
    if config.chat_template:
        template = chat_template(tokenizer, config.template_date)
        return [_encode_turns(tokenizer, template, prompt.text, config.system_prompt) for prompt in prompts]
    return [encode_text(tokenizer, prompt.text) for prompt in prompts]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text that goes on: with the tokenizer's opening tokens, without a closing one."""
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
            "the model's chat template refuses these turns",
            got=error,
            expected=", ".join(t["role"] for t in spoken),
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
            "this model's head does not see its hidden states",
            got=f"logits of shape {tuple(logits.shape)}",
            expected=(1, num_positions),
            hint="report the architecture: it needs a rule of its own",
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
    """What decides the last bits besides the inputs. Threads do: they cut a float32 product differently."""
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
