"""What is found before weights load: each fault is one clear error, and a good model passes."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import ConfigError, InputError, IntegrityError, RaftError
from raft_core.policies.text import backend, template
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.types import Prompt

pytestmark = pytest.mark.slow

PROMPTS = [Prompt.of(" w1 w2"), Prompt.of(" w3")]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}.{% endfor %}"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def check(
    folder: Path,
    prompts: list[Prompt] = PROMPTS,
    *,
    new_tokens: int = 8,
    sampling: dict[str, Any] | None = None,
    **policy: Any,
) -> list[str]:
    config = TextPolicyConfig(model=str(folder), **policy)
    return backend.check(config, prompts, SamplingConfig(max_new_tokens=new_tokens, **(sampling or {})))


def refused(folder: Path, *arguments: Any, kind: type[RaftError] = InputError, **named: Any) -> str:
    with pytest.raises(kind) as caught:
        check(folder, *arguments, **named)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_good_model_passes_and_no_weights_are_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.models, "load_weights", lambda *_: pytest.fail("weights were loaded"))
    check(folder)


def test_no_folder(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refused(tmp_path / "absent").splitlines()[0]
    with pytest.raises(InputError, match="absent"):
        backend.base_policy(TextPolicyConfig(model=str(tmp_path / "absent")))


@pytest.mark.parametrize("text", [None, "{", "[]", b"\xff\xfe"])
def test_no_readable_configuration(folder: Path, text: str | bytes | None) -> None:
    path = folder / "config.json"
    path.unlink() if text is None else path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "config.json" in refused(folder)


def test_an_unknown_architecture(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "model_type": "of-nobody"}))
    assert "of-nobody" in refused(folder)


def test_code_in_the_folder_needs_a_word(folder: Path) -> None:
    told = {"model_type": "my_own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')")
    assert "policy.trust_remote_code: true" in refused(folder)


def test_quantized_weights(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "quantization_config": {"quant_method": "gguf"}}))
    assert "quantized" in refused(folder)


def test_no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer.json" in refused(folder)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    assert "tokenizer.json" in refused(folder)


def test_no_chat_template(folder: Path) -> None:
    assert "chat template" in refused(folder, chat_template=True)


def test_a_chat_template_is_used(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "chat", chat_template=TEMPLATE)
    check(folder, chat_template=True)
    config = TextPolicyConfig(model=str(folder), chat_template=True, system_prompt=" w5")
    policy = LoadedTextPolicy(backend.base_policy(config), config, dtype="float32")
    (sample,) = policy.sample([Prompt.of(" w1")], SamplingConfig(max_new_tokens=2), samples_per_prompt=1, seed=0)
    told = policy.tokenizer.convert_ids_to_tokens(list(sample.prompt_token_ids))  # type: ignore[attr-defined]
    assert told == ["<unk>", "<unk>", " w5", ".", "<unk>", "<unk>", " w1", "."]


def test_a_chat_template_that_refuses_the_system_turn(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
    folder = make_checkpoint(tmp_path / "chat", chat_template=refusing)
    check(folder, chat_template=True)
    assert "no system turn" in refused(folder, chat_template=True, system_prompt=" w5")


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>")


def test_an_end_of_turn_that_ends_no_completion_is_warned_of(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "chat", chat_template=CHAT, special=MARKS)
    (warning,) = check(folder, chat_template=True)
    assert "<|im_end|> (124)" in warning
    assert "<eos> (1)" in warning
    assert "sampling.stop_token_ids: [124]" in warning
    assert check(folder, chat_template=True, sampling={"stop_token_ids": (124,)}) == []
    assert check(folder, chat_template=True, sampling={"stop": ("<|im_end|>",)}) == []
    assert check(folder) == []
    assert (
        "sampling.stop_token_ids: [5, 124]" in check(folder, chat_template=True, sampling={"stop_token_ids": (5,)})[0]
    )


def test_an_end_of_turn_that_is_among_the_ends(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    assert (
        check(make_checkpoint(tmp_path / "a", chat_template=CHAT, special=MARKS, eos=[1, 124]), chat_template=True)
        == []
    )
    written = make_checkpoint(tmp_path / "b", chat_template=CHAT, special=MARKS)
    (written / "generation_config.json").write_text(json.dumps({"eos_token_id": 124}))
    assert check(written, chat_template=True) == []
    assert check(make_checkpoint(tmp_path / "c", chat_template=TEMPLATE), chat_template=True) == []


def test_a_stop_token_that_the_model_does_not_have(folder: Path) -> None:
    message = refused(folder, kind=ConfigError, sampling={"stop_token_ids": (3, 123)})
    assert "sampling.stop_token_ids" in message
    assert "[123]" in message


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_a_checkpoint_cut_in_half(folder: Path, share: float) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    assert "model.safetensors" in refused(folder, kind=IntegrityError)


def test_a_checkpoint_with_bytes_behind_its_end(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    size = (folder / "model.safetensors").stat().st_size
    message = refused(folder, kind=IntegrityError)
    assert f"{size} bytes" in message
    assert f"{size - 1} bytes" in message


def test_no_weights_and_weights_of_another_kind(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights at all" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin" in refused(folder)


def shard(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_shards(folder: Path) -> None:
    before = load_file(folder / "model.safetensors")
    shard(folder)
    check(folder)
    config = TextPolicyConfig(model=str(folder))
    loaded = LoadedTextPolicy(backend.base_policy(config), config, dtype="float32").model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())

    second = folder / "model-00002-of-00002.safetensors"
    data = second.read_bytes()
    second.write_bytes(data[: len(data) // 2])
    assert "00002" in refused(folder, kind=IntegrityError)
    second.unlink()
    assert str(second) in refused(folder, kind=IntegrityError)
    shutil.copy(folder / "model-00001-of-00002.safetensors", second)
    assert f"tensors are missing in {second}" in refused(folder, kind=IntegrityError)
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "index" in refused(folder, kind=IntegrityError)


def test_long_prompts_are_named_with_their_lengths(folder: Path) -> None:
    long = [Prompt.of(f" w{n}" + " w1" * n) for n in (9, 30, 20, 10, 5)]
    message = refused(folder, [*PROMPTS, *long], max_prompt_tokens=9)
    assert "4 of 7 prompts are longer than 9 tokens (policy.max_prompt_tokens)" in message
    assert "' w30 w1" in message
    assert "(31 tokens)" in message
    assert "and 1 more" in message
    check(folder, long, max_prompt_tokens=31)


def test_a_prompt_and_its_completion_must_fit_the_context(folder: Path) -> None:
    prompt = [Prompt.of(" w1" * 50)]
    check(folder, prompt, new_tokens=14)
    message = refused(folder, prompt, new_tokens=15)
    assert "context of 64 tokens" in message
    assert "sampling.max_new_tokens 15" in message


def test_empty_prompts(folder: Path) -> None:
    assert "2 prompts are empty" in refused(folder, [*PROMPTS, Prompt.of(""), Prompt.of("  \n")])


def test_numerics_name_what_decides_the_last_bits() -> None:
    found = backend.numerics("bfloat16")
    assert found["dtype"] == "bfloat16"
    assert found["torch"] == torch.__version__
    assert found["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found.get("threads") == (torch.get_num_threads() if found["device"] == "cpu" else None)
    assert json.loads(json.dumps(found)) == found


HOSTILE_TEMPLATES = {
    "reaches for Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "formats its way out": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "a range too far": "{% for i in range(10**9) %}x{% endfor %}",
    "memory": "{{ 'x' * 10**11 }}",
    "memory in small steps": (
        "{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}"
    ),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a syntax error": "{% for %}",
    "too long": "{{ messages[-1]['content'] * 10**6 }}",
}


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES.values(), ids=HOSTILE_TEMPLATES)
@pytest.mark.full
def test_a_hostile_chat_template_ends_in_one_error(
    make_checkpoint: Callable[..., Path], tmp_path: Path, template: str
) -> None:
    folder = make_checkpoint(tmp_path / "hostile", chat_template=template)
    message = refused(folder, chat_template=True)
    assert "the chat template of" in message
    assert "object at 0x" not in message


def test_a_template_sees_nothing_of_python(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    reaching = (
        "{{ ''|attr('__class__') }}{{ raise_exception.__globals__ }}{{ messages|map(attribute='__class__')|list }}"
    )
    folder = make_checkpoint(tmp_path / "reaching", chat_template=reaching)
    tokenizer = backend.models.load_tokenizer(folder, TextPolicyConfig(model=str(folder)))
    seen = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert seen == "[Undefined]"


def test_a_template_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    source = Path(template.__file__).read_text().replace("CPU_S, WALL_S, EACH_S = 30, ", "CPU_S, WALL_S, EACH_S = 3, ")
    child = Path(tempfile.mkdtemp()) / "template.py"
    child.write_text(source)
    monkeypatch.setattr(template, "__file__", str(child))
    turns = [[{"role": "user", "content": "a"}]]
    with pytest.raises(template.TemplateFault, match="took more than"):
        template.render_in_child(loop, turns, {})
    assert template.render_in_child("{{ messages[0]['content'] }}", turns, {}) == []
    assert template.render_in_child("{{ messages[0]['content'] }}", turns, {}, wanted=True) == ["a"]


def test_the_time_that_a_template_may_take_grows_with_the_prompts() -> None:
    """200,000 prompts took longer than the half minute that a few may take."""
    tell = "from raft_core.policies.text.template import _limit; import resource; _limit({}); "
    tell += "print(resource.getrlimit(resource.RLIMIT_CPU)[0])"
    few, many = (
        int(subprocess.run([sys.executable, "-c", tell.format(prompts)], capture_output=True, check=True).stdout)
        for prompts in (1, 200_000)
    )
    assert template.CPU_S <= few <= 2 * template.CPU_S
    assert many >= 200_000 * template.EACH_S


def test_an_id_of_the_hub_is_told_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(Path("some-org/Some-Model-1.5B"))
    assert "`hf download some-org/Some-Model-1.5B --local-dir models/Some-Model-1.5B`" in message
    (tmp_path / "some-org").mkdir()
    assert "hf download" not in refused(Path("some-org/Some-Model-1.5B"))


@pytest.mark.parametrize(
    ("base", "told"), [("org/base", "merge_and_unload"), ("sha256:" + "0" * 64, "raft merge RUN@N")]
)
def test_an_adapter_as_policy(folder: Path, base: str, told: str) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    message = refused(folder)  # next to a whole model, transformers would apply it silently
    assert told in message
    assert base in message
    (folder / "config.json").unlink()
    assert told in refused(folder)


def test_the_hubs_cache_works_with_its_links(folder: Path, tmp_path: Path) -> None:
    """``models--org--name/snapshots/REVISION/`` holds links into ``blobs/``: followed, and hashed by content."""
    entry = tmp_path / "models--org--name"
    snapshot = entry / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (entry / "blobs").mkdir()
    for file in folder.iterdir():
        shutil.copy(file, entry / "blobs" / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    check(snapshot)
    plain = backend.base_policy(TextPolicyConfig(model=str(folder)))
    assert backend.base_policy(TextPolicyConfig(model=str(snapshot))).digest == plain.digest
    assert f"policy.model: {snapshot}" in refused(entry)
    (entry / "blobs" / "blob-model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="cp -rL"):
        backend.base_policy(TextPolicyConfig(model=str(snapshot)))
