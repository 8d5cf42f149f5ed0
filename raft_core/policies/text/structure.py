"""Check that the parts of a model folder fit together: architecture, names and shapes of tensors, tokenizer.

The model is built without memory (torch's meta device) and gets the *names* in the headers of its safetensors through
transformers' own loader. So its renamings, tied weights and exceptions are respected, and no weight is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import InputError
from raft_core.policies.completeness import check_complete, without_report
from raft_core.policies.text.chat import Tokenizer
from raft_core.policies.text.checkpoint import Shapes

OTHER_TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForImageClassification",
    "RewardModel",
)
"""Endings of the names of classes that do not predict the next token."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def check_architecture(folder: Path, fields: Mapping[str, Any], config: Any) -> None:
    """Raise InputError for a model that does not predict the next token of a text."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    names = fields.get("architectures")
    named = [str(name) for name in names] if isinstance(names, list) else []
    what = ", ".join(named) or str(fields.get("model_type"))
    expected = "a causal language model (decoder only), as AutoModelForCausalLM loads it"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"the model in {folder} is an encoder-decoder and cannot be used as the policy",
            got=what,
            expected=expected,
            hint="set policy.model to a decoder-only model",
        )
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if "AutoModelForCausalLM" not in (fields.get("auto_map") or {}) and not known:
        raise InputError(
            f"the model in {folder} is not a causal language model",
            got=what,
            expected=expected,
            hint="set policy.model to a decoder-only language model",
        )
    built = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ if known else ""
    if named and built not in named and all(name.endswith(OTHER_TASKS) for name in named):
        raise InputError(
            f"the model in {folder} is made for another task and cannot be used as the policy",
            got=what,
            expected=expected,
            hint="set policy.model to the language model that it was trained from; a model that classifies can be a "
            "reward (type: classifier)",
        )


def check_tensors(folder: Path, model_config: Any, shapes: Shapes, config: TextPolicyConfig) -> int | None:
    """Number of rows of the model's embedding; None if the model does not say which module embeds its tokens.

    Raises InputError unless the checkpoint's tensors are those of the model.
    """
    text_config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    layers = max((n for name in LAYERS if isinstance(n := getattr(text_config, name, None), int)), default=0)
    if layers > len(shapes):  # checked before each layer becomes a module in memory
        raise InputError(
            f"config.json in {folder} does not match the weights next to it",
            got=f"{layers:,} layers in config.json",
            expected=f"at most as many as there are tensors in the weights, {len(shapes):,}",
            hint="copy or download the whole checkpoint again, including its own config.json",
        )
    model, loading = _without_memory(folder, model_config, shapes, config)
    check_complete(folder, loading, model=type(model).__name__)
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        return None


def check_tokenizer(folder: Path, tokenizer: Tokenizer, rows: int | None) -> None:
    """Raise InputError for a tokenizer with ids for which the embedding has no row."""
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    if rows is not None and names and max(names) >= rows:
        beyond = sorted(number for number in names if number >= rows)
        raise InputError(
            f"the tokenizer in {folder} has more tokens than the model's embedding",
            got=f"{len(beyond)} ids from {rows} on ({', '.join(repr(names[n]) for n in beyond[:3])})",
            expected=f"only ids below {rows}, the number of rows of the embedding",
            hint="copy the tokenizer that the model was trained with; or call `model.resize_token_embeddings(…)`, "
            "train the new rows and save model and tokenizer",
        )


def _without_memory(folder: Path, model_config: Any, shapes: Shapes, config: TextPolicyConfig) -> tuple[Any, Any]:
    """The model on the meta device, and transformers' loading info for the checkpoint's names and shapes."""
    from transformers import AutoModelForCausalLM

    meta = torch.device("meta")
    try:
        state = {name: torch.empty(shape, device=meta) for name, shape in shapes.items()}
        with without_report(), torch.random.fork_rng(devices=[]):
            with meta:
                built = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
            return type(built).from_pretrained(  # type: ignore[no-any-return]
                None,
                config=model_config,
                state_dict=state,
                device_map="meta",
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ImportError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise InputError(
            f"transformers cannot build the model that config.json in {folder} describes",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            expected="a config.json that matches the weights next to it",
            hint="copy or download the whole checkpoint again, including its own config.json",
        ) from error
