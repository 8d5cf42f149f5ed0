"""The classifier reward on a tiny random BERT."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raft_core.errors import ConfigError, InputError, RaftError
from raft_core.rewards.classifier import ClassifierRewardConfig, load, load_without_weights
from raft_core.types import Prompt

Maker = Callable[..., Path]
PROMPT = Prompt.of("a film ")
TEXTS = ["good", "bad bad bad", "was good a film", "", "bad film was bad a film good", "good good"]


def config(folder: Path, **settings: object) -> ClassifierRewardConfig:
    return ClassifierRewardConfig(model=str(folder), **{"max_tokens": 16, **settings})


@pytest.fixture(scope="module")
def folder(classifier_maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_maker(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="module")
def logits(folder: Path) -> Callable[[str], list[float]]:
    """Each text alone, straight through transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def of(text: str) -> list[float]:
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()

    return of


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_the_models_and_in_order(
    folder: Path, logits: Callable[[str], list[float]], batch_size: int
) -> None:
    reward = load(config(folder, batch_size=batch_size))
    expected = [logits(PROMPT.text + text)[0] for text in TEXTS]
    assert len(set(expected)) > 4
    assert reward([PROMPT] * len(TEXTS), TEXTS) == pytest.approx(expected, abs=1e-5)
    assert reward([PROMPT] * len(TEXTS), TEXTS) == reward([PROMPT] * len(TEXTS), TEXTS)


def test_completion_alone(folder: Path, logits: Callable[[str], list[float]]) -> None:
    assert load(config(folder, text="completion"))([PROMPT], ["good"]) == pytest.approx(logits("good"), abs=1e-5)


def test_a_long_text_loses_its_beginning(folder: Path, logits: Callable[[str], list[float]]) -> None:
    reward = load(config(folder, max_tokens=5))
    assert reward([PROMPT], ["bad was good"]) == pytest.approx(logits("bad was good"), abs=1e-5)


def test_a_label_by_name(classifier_maker: Maker, tmp_path: Path) -> None:
    folder = classifier_maker(tmp_path / "three", labels=["no", "maybe", "yes"])
    scores = {label: load(config(folder, label=label))([PROMPT], ["good"])[0] for label in ("no", "maybe", "yes")}
    assert len(set(scores.values())) == 3
    with pytest.raises(ConfigError, match=r"(?s)no `label`.*no, maybe, yes"):
        load(config(folder))
    with pytest.raises(ConfigError, match=r"(?s)label: perhaps.*no, maybe, yes"):
        load(config(folder, label="perhaps"))


def test_identity_follows_bytes_and_settings(folder: Path, classifier_maker: Maker, tmp_path: Path) -> None:
    identity = load(config(folder)).identity
    other = classifier_maker(tmp_path / "copy")
    assert load(config(other, name="other", weight=2.0)).identity == identity
    assert load(config(folder, max_tokens=8)).identity != identity
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert load(config(other)).identity != identity


def test_longer_than_the_model_can_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match="set max_tokens: 16"):
        load(config(folder, max_tokens=17))


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _headless(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _remote_code(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (folder / "mine.py").write_text("raise SystemExit('code from the folder was run')\n")


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (lambda f: (f / "config.json").unlink(), "without config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer of the classifier"),
        (_cut, "cannot be loaded"),
        (_to_pickle, r"\*\.safetensors"),
        (_headless, "head"),
        (_remote_code, "cannot be loaded"),
    ],
    ids=["no config", "no tokenizer", "broken tokenizer", "cut", "pickle", "headless", "remote code"],
)
def test_folders_that_cannot_be_used(
    classifier_maker: Maker, tmp_path: Path, breaks: Callable[[Path], object], told: str
) -> None:
    folder = classifier_maker(tmp_path / "model")
    breaks(folder)
    with pytest.raises(InputError, match=told) as caught:
        load(config(folder))
    assert str(folder) in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(
    ("breaks", "told"), [(_to_pickle, r"\*\.safetensors"), (_headless, "head"), (_cut, "safetensors")]
)
def test_the_same_faults_are_found_without_loading_weights(
    classifier_maker: Maker, tmp_path: Path, breaks: Callable[[Path], object], told: str
) -> None:
    folder = classifier_maker(tmp_path / "model")
    light = load_without_weights(config(folder))
    assert all(parameter.is_meta for parameter in light.model.parameters())
    assert light.output == load(config(folder)).output
    breaks(folder)
    with pytest.raises(RaftError, match=told):
        load_without_weights(config(folder))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere(?s:.*)does not exist"):
        load(config(tmp_path / "nowhere"))
