"""A hostile ``config.json`` is one clear error, within little memory and time, before a library reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raft_core.errors import InputError
from raft_core.policies.text.plain import OTHERS, plain_config

DEEP = "[" * 200_000 + "]" * 200_000
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from pathlib import Path
from raft_core.errors import InputError
from raft_core.policies.text.plain import plain_config
for folder in sys.argv[1:]:
    try:
        plain_config(Path(folder))
    except InputError as error:
        print(Path(folder).name, "refused:", str(error).splitlines()[1].strip())
"""


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The configuration of the tiny checkpoint alone."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    return tmp_path / "model"


def test_hostile_configurations_are_refused_within_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    texts: dict[str, str | None] = {
        "deep": f'{{"a": {DEEP}}}',
        "digits": json.dumps({"hidden_size": 10**30}),
        "pipe": None,
        "list": "[]",
        "wide": json.dumps({"hidden_size": 10**18}),
        "float": '{"hidden_size": 1e300}',
        "layers": json.dumps({"num_hidden_layers": 2_000_000}),
        "nested": json.dumps({"text_config": {"n_layer": 2_000_000}}),
        "types": json.dumps({"layer_types": ["full_attention"] * 5000}),
        "heads": json.dumps({"num_attention_heads": -(10**12)}),
        "endless": '{"a": "' + "x" * (1 << 24) + '"}',
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        if text is None:
            os.mkfifo(tmp_path / name / "config.json")
        else:
            (tmp_path / name / "config.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-P", "-c", LIMITED, *(str(tmp_path / name) for name in texts)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(texts)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_that_nest_without_end_are_refused(name: str, folder: Path) -> None:
    (folder / name).write_text(DEEP)
    with pytest.raises(InputError, match=name):
        plain_config(folder)


@pytest.mark.parametrize(
    "real",
    [
        {"vocab_size": 262_144, "hidden_size": 16_384, "num_hidden_layers": 126, "intermediate_size": 53_248},
        {"max_position_embeddings": 10**9, "rope_theta": 1e12, "layer_norm_eps": 1e-12, "n_layer": 1},
        {"layer_types": ["full_attention"] * 126, "text_config": {"num_experts": 512}, "image_token_id": 2**31},
        {"initializer_range": 0.02, "sliding_window": None, "hidden_sizes": [320, 640], "use_layer_scale": True},
    ],
)
def test_what_real_models_say_of_themselves_passes(real: dict[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(real))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert plain_config(folder) == real
