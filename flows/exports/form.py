"""What kind of model a policy is: which library loads it, and how."""

from dataclasses import dataclass

from flows.exports.dossier import Dossier
from raft_core.records.run import BASE


@dataclass(frozen=True, slots=True)
class Form:
    """``library`` and ``task``: the names that the Hugging Face hub has for them, None where it has no such task.

    ``noun``: what the policy is, with its article. ``loading``: Python that loads it.
    """

    library: str
    task: str | None
    noun: str
    loading: str


ADAPTER = Form(
    "peft",
    "text-generation",
    "a LoRA adapter (low-rank adaptation: a small set of weights on top of the initial policy)",
    "from peft import PeftModel\n"
    "from transformers import AutoModelForCausalLM\n\n"
    'initial = AutoModelForCausalLM.from_pretrained("PATH/TO/INITIAL/POLICY")\n'
    'model = PeftModel.from_pretrained(initial, "PATH/TO/THIS/FOLDER")',
)
CHECKPOINT = Form(
    "transformers",
    "text-generation",
    "a full transformers checkpoint",
    "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/FOLDER")\n'
    'tokenizer = AutoTokenizer.from_pretrained("PATH/TO/THIS/FOLDER")',
)
TABLE = Form(
    "raft-mlops",
    None,
    "a table of probabilities (RAFT's tabular policy; transformers cannot load it)",
    "from pathlib import Path\n\n"
    "from raft_core.policies.tabular.backend import read\n\n"
    'policy = read(Path("PATH/TO/THIS/FOLDER"))  # policy.probabilities_XY: one row per prompt',
)


def form(dossier: Dossier) -> Form:
    """The form of the policy that the dossier is about."""
    if dossier.run.config.policy.type == "tabular":
        return TABLE
    return ADAPTER if dossier.link.policy.base is not None else CHECKPOINT


def fine_tuning(dossier: Dossier) -> str:
    """How it was trained, in a phrase."""
    if dossier.iteration == BASE:
        return "none: this is the initial policy"
    if form(dossier) is TABLE:
        return "exact fit of the table to the selected completions, without gradients"
    tuning = dossier.run.config.finetuning
    what = f"LoRA, rank {tuning.lora.r}, alpha {tuning.lora.alpha}" if tuning.lora else "all weights"
    return (
        f"{what}; learning rate {tuning.learning_rate:g} ({tuning.schedule.replace('_', ' ')}), batch size "
        f"{tuning.batch_size}, epochs {tuning.epochs}; DeepSpeed ZeRO stage {tuning.zero_stage}, ranks {tuning.ranks}"
    )
