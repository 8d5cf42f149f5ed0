"""What the exports say about code of other packages, about tabular policies, and in which words."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.exports.audit import TERMS, audit_page
from flows.exports.audit_data import _components, sections
from flows.exports.bom import bom
from flows.exports.dossier import Dossier, open_dossier
from flows.exports.model_card import model_card
from flows.exports.sources import named
from raft_core.policies.tabular.backend import read, save
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.policies.tabular.settings import TabularPolicyConfig
from raft_core.records.run import Run
from raft_core.rewards.base import RewardConfig, RewardFn
from raft_core.types import Prompt

REWARD, DATA, SELECTOR = "1a" * 32, "2b" * 32, "3c" * 32
BROUGHT = {
    "code of reward context": {"magic.reward of magic-rules 1.5": REWARD, "words.txt": DATA},
    "code of selector softmax": {"magic.selector of magic-rules 1.5": SELECTOR},
}
FORBIDDEN = (
    "told|mend|spoilt|forth|anew|away|goners?|aftermath|withdraws?|contenders?|holders?|standing|worlds?|embedded|parts|"
    "projections?|frames|findings|numerics|once|do this|is no|a row an?"
)
"""Words of the left column of the project's list of words, as far as they can stand in an export."""


class MagicRewardConfig(RewardConfig):
    type: str = "magic"

    def load(self, *, weights: bool = True) -> RewardFn:
        raise NotImplementedError


@pytest.fixture
def plugged(dossier: Dossier) -> Dossier:
    """A run that scored by a package's reward beside a lexicon of ours, and selected by that package's rule."""
    config = dossier.run.config
    rewards = [*config.scoring.rewards, MagicRewardConfig(name="context")]
    scoring = config.scoring.model_copy(update={"rewards": rewards})
    pins: dict[str, Any] = {
        "lexicon": {"ours.txt": "4d" * 32},
        "context": BROUGHT["code of reward context"],
        "selection.softmax": BROUGHT["code of selector softmax"],
    }
    last = dossier.chain[-1]
    chain = [*dossier.chain[:-1], replace(last, content={**last.content, "rewards": pins})]
    run = replace(dossier.run, config=config.model_copy(update={"scoring": scoring}))
    return replace(dossier, run=run, chain=chain)


def test_code_of_other_packages_is_named_with_its_digest(plugged: Dossier, dossier: Dossier) -> None:
    found = [(part.role, part.reference, part.digest) for part in named(plugged) if part.kind == "code"]
    assert found == [(role, *item) for role, sources in BROUGHT.items() for item in sources.items()]
    assert [part for part in named(dossier) if part.kind == "code"] == []


def test_the_page_and_the_card_name_it(plugged: Dossier) -> None:
    rows = {row["reference"]: row for row in _components(plugged)}
    lines = [line.split(" | ") for line in model_card(plugged).splitlines()]
    card = {cells[1]: cells for cells in lines if len(cells) == 4}
    for role, sources in BROUGHT.items():
        for reference, digest in sources.items():
            assert (rows[reference]["role"], rows[reference]["digest"]) == (role, digest[:16])
            assert [f"| {role}", f"{digest[:12]} |"] == [card[reference.replace("_", r"\_")][i] for i in (0, 3)]
    assert "ours.txt" not in rows


def test_the_bom_has_it_as_libraries_with_hashes(plugged: Dossier) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bom(plugged)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    libraries = {
        (component["description"], component["name"]): component["hashes"]
        for component in components
        if component["type"] == "library" and "hashes" in component
    }
    assert libraries == {
        (role, reference): [{"alg": "SHA-256", "content": digest}]
        for role, sources in BROUGHT.items()
        for reference, digest in sources.items()
    }
    (context,) = [component for component in components if component.get("description") == "reward context"]
    assert context["type"] == "machine-learning-model"


@pytest.fixture
def table(dossier: Dossier) -> Dossier:
    """The same records, of a tabular policy."""
    policy = TabularPolicyConfig(model=dossier.run.config.policy.model)
    config = dossier.run.config.model_copy(update={"policy": policy})
    return replace(dossier, run=replace(dossier.run, config=config))


def test_a_tabular_policy_is_not_called_a_transformers_model(table: Dossier, dossier: Dossier) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(table))
    assert card.data.library_name == "raft-mlops"
    assert card.data.pipeline_tag is None
    assert "AutoModelForCausalLM" not in card.text
    assert "LoRA" not in card.text
    assert ModelCard(model_card(dossier)).data.library_name == "peft"
    description = json.loads(bom(table))["metadata"]["component"]["description"]
    assert "table of probabilities" in description
    assert "DeepSpeed" not in dict(sections(table)["made"])["fine-tuning"]
    assert "DeepSpeed" in dict(sections(dossier)["made"])["fine-tuning"]


def test_the_cards_code_loads_a_tabular_policy(table: Dossier, tmp_path: Path) -> None:
    prompts = [Prompt.of("a"), Prompt.of("b")]
    save(TabularPolicy.uniform(prompts, ["x", "y"]), tmp_path / "policy")
    found = re.search(r"```python\n(.*?)```", model_card(table), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1].replace("PATH/TO/THIS/FOLDER", str(tmp_path / "policy")), names)
    assert np.array_equal(names["policy"].probabilities_XY, read(tmp_path / "policy").probabilities_XY)


def test_the_base_is_a_full_checkpoint(exported_run: Run) -> None:
    from huggingface_hub import ModelCard

    assert ModelCard(model_card(open_dossier(exported_run, -1, resolve=Path))).data.library_name == "transformers"


def test_the_words_are_those_of_the_project(
    dossier: Dossier, exported_run: Run, texts: Callable[[str], list[str]]
) -> None:
    for subject in (dossier, open_dossier(exported_run, -1, resolve=Path)):
        for export in (" ".join(texts(audit_page(subject))), model_card(subject)):
            assert re.findall(rf"\b(?:{FORBIDDEN})\b", export, re.IGNORECASE) == []


def test_abbreviations_on_the_page_are_explained(dossier: Dossier, texts: Callable[[str], list[str]]) -> None:
    explained = " ".join(f"{term} {meaning}" for term, meaning in TERMS)
    for abbreviation in ("KL", "nat", "distinct-2", "MSTTR-100", "LoRA", "ZeRO", "sha256"):
        assert re.search(rf"\b{abbreviation}\b", explained)
    page = texts(audit_page(dossier))
    assert all(term in page and meaning in page for term, meaning in TERMS)
