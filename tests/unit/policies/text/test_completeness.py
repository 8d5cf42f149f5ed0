"""A checkpoint holds exactly its model's tensors, or is refused before a weight is read; what is legitimate loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import InputError
from raft_core.policies.completeness import without_report
from raft_core.policies.text import backend
from raft_core.policies.text.checkpoint import check_weights
from raft_core.policies.text.model import load_weights
from raft_core.policies.text.structure import check_tensors
from raft_core.types import Prompt
from tests.unit.policies.text.families import FAMILIES, SMALL, TIED, build


@pytest.fixture
def save(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """``save(model)``: a folder with that model and the tiny tokenizer."""

    def write(model: Any) -> Path:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        with without_report():
            model.save_pretrained(folder)
        for file in tiny_checkpoint.glob("tokenizer*"):
            shutil.copy(file, folder)
        return folder

    return write


def check(folder: Path) -> None:
    backend.check(TextPolicyConfig(model=str(folder)), [Prompt.of(" w1 w2")], SamplingConfig(max_new_tokens=8))


def check_weights_alone(folder: Path) -> None:
    """Without the tokenizer: transformers gives some families a class of their own for it."""
    config = TextPolicyConfig(model=str(folder))
    check_tensors(folder, transformers.AutoConfig.from_pretrained(folder), check_weights(folder), config)


def test_a_shape_that_torch_cannot_hold_is_refused_in_words(save: Callable[[Any], Path]) -> None:
    """It takes no byte, so the sizes in the header agree with the file."""
    folder = save(build("llama"))
    (path,) = folder.glob("*.safetensors")
    change(folder, lambda tensors: {**tensors, "odd": torch.empty(0, 1)})
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["odd"]["shape"] = [0, 2**63, 2**63]
    told = json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + data[8 + size :])
    with pytest.raises(InputError, match=r"cannot build the model"):
        check_weights_alone(folder)


def refused(folder: Path) -> str:
    """The message of the check; loading the weights themselves is refused as well."""
    with pytest.raises(InputError) as caught:
        check(folder)
    with pytest.raises(InputError):
        load_weights(folder, TextPolicyConfig(model=str(folder)))
    return str(caught.value)


def change(folder: Path, changed: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({n: t.contiguous() for n, t in changed(load_file(path)).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_of_many_families_loads(family: str, save: Callable[[Any], Path]) -> None:
    model = build(family)
    folder = save(model)
    check_weights_alone(folder)
    loaded = load_weights(folder, TextPolicyConfig(model=str(folder))).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trunk_alone_is_whole_only_where_the_head_is_tied(family: str, save: Callable[[Any], Path]) -> None:
    model = build(family)
    folder = save(model.base_model)
    if model.config.tie_word_embeddings and model.get_output_embeddings().bias is None:
        check_weights_alone(folder)
        loaded = load_weights(folder, TextPolicyConfig(model=str(folder)))
        assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)
    else:
        assert "output head" in refused(folder)
    assert family not in TIED or model.config.tie_word_embeddings


def test_what_older_versions_saved_beside_the_weights_is_ignored(save: Callable[[Any], Path]) -> None:
    folder = save(build("gptj"))
    mask = torch.ones(1, 1, 64, 64)
    change(
        folder, lambda state: {**state, "transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": mask + 1}
    )
    check(folder)


def test_a_layer_that_is_missing(save: Callable[[Any], Path]) -> None:
    folder = save(build("llama"))
    change(folder, lambda state: {n: t for n, t in state.items() if ".layers.1." not in n})
    message = refused(folder)
    assert "9 tensors missing (model.layers.1.input_layernorm.weight" in message
    assert "LlamaForCausalLM" in message


def test_tensors_of_another_shape_and_too_many(save: Callable[[Any], Path]) -> None:
    folder = save(build("llama", tie_word_embeddings=False))
    change(folder, lambda state: {**state, "lm_head.weight": torch.zeros(513, 32)})
    message = refused(folder)
    assert "1 tensors of the wrong shape" in message
    assert "lm_head.weight: [513, 32]" in message
    assert "[512, 32]" in message
    folder = save(build("llama"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "num_hidden_layers": 1}))
    assert "9 tensors unexpected (model.layers.1." in refused(folder)


def test_names_of_peft(save: Callable[[Any], Path]) -> None:
    folder = save(build("llama"))
    change(folder, lambda state: {f"base_model.model.{n}": t for n, t in state.items()})
    assert "merge_and_unload" in refused(folder)


def test_a_classifier_as_policy(save: Callable[[Any], Path]) -> None:
    config = transformers.LlamaConfig(**SMALL, num_labels=1)
    folder = save(transformers.AutoModelForSequenceClassification.from_config(config))
    assert "another task" in refused(folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "architectures": ["LlamaForCausalLM"]}))
    assert "score.weight" in refused(folder)


def test_a_masked_language_model_as_policy(save: Callable[[Any], Path]) -> None:
    model = transformers.AutoModelForMaskedLM.from_config(transformers.BertConfig(**SMALL))
    with pytest.raises(InputError, match="another task"):
        check(save(model))


def test_an_encoder_decoder_as_policy(save: Callable[[Any], Path]) -> None:
    config = transformers.BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=512,
        max_position_embeddings=64,
    )
    with pytest.raises(InputError, match="encoder-decoder"):
        check(save(transformers.AutoModelForSeq2SeqLM.from_config(config)))
    t5 = transformers.T5Config(d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2, vocab_size=512)
    with pytest.raises(InputError, match="encoder-decoder"):
        check(save(transformers.AutoModelForSeq2SeqLM.from_config(t5)))


def test_no_language_model_at_all(save: Callable[[Any], Path]) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(InputError, match="ViTModel"):
        check(save(transformers.ViTModel(config)))


def test_a_tokenizer_larger_than_the_embedding(tiny_checkpoint: Path, save: Callable[[Any], Path]) -> None:
    size = len(transformers.AutoTokenizer.from_pretrained(tiny_checkpoint))
    check(save(_sized(size)))
    with pytest.raises(InputError, match="tokenizer") as caught:
        check(save(_sized(size - 2)))
    assert f"2 ids from {size - 2} on" in str(caught.value)


def _sized(vocab_size: int) -> Any:
    return transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**{**SMALL, "vocab_size": vocab_size})
    )


@pytest.mark.parametrize("change_of", [{"num_hidden_layers": 2_000_000}, {"hidden_size": 10**30}, {"vocab_size": -1}])
def test_a_hostile_configuration_ends_in_one_error(change_of: dict[str, int], save: Callable[[Any], Path]) -> None:
    folder = save(build("llama"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **change_of}))
    with pytest.raises(InputError, match=r"config\.json"):
        check(folder)


def test_a_file_of_weights_that_the_configuration_names(save: Callable[[Any], Path]) -> None:
    folder = save(build("llama"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "transformers_weights": "other.safetensors"}))
    with pytest.raises(InputError, match="transformers_weights"):
        check(folder)
