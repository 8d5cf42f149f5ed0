"""Formats of prompt files: what just works, and an exact way out for what does not."""

import csv
import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_core.errors import InputError
from raft_core.policies.hub import download_command
from raft_core.prompts import files as prompt_files
from raft_core.prompts.splits import load_prompts
from raft_core.types import Prompt

ROWS: list[dict[str, Any]] = [
    {"text": 'a "quoted", film; or two', "reference": "yes\nor no", "group": "g", "source": "s"},
    {"text": "line one\nline two\ttab", "reference": None, "group": None, "source": "s"},
    {"text": "é 漢", "reference": "x", "group": None, "source": None},
]
EXPECTED = [Prompt.of(**{key: value for key, value in row.items() if value is not None}) for row in ROWS]


def write_csv(path: Path, delimiter: str) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ROWS)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.CSV", ",")])
def test_csv_with_quotes_line_ends_and_empty_fields(tmp_path: Path, name: str, delimiter: str) -> None:
    write_csv(tmp_path / name, delimiter)
    assert load_prompts(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.csv", "a.txt"])
def test_every_format_of_text_packed(tmp_path: Path, name: str) -> None:
    plain, expected = tmp_path / name, EXPECTED
    if name.endswith(".csv"):
        write_csv(plain, ",")
    elif name.endswith(".txt"):
        plain.write_text("one\ntwo\n")
        expected = [Prompt.of("one"), Prompt.of("two")]
    else:
        plain.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_prompts(packed) == load_prompts(plain) == expected


def refusal(path: Path, column: str = "text") -> InputError:
    with pytest.raises(InputError) as caught:
        load_prompts(path, column)
    assert caught.value.hint
    return caught.value


def test_lines_of_a_csv_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,group\n"two\nlines",g\nlast,g,h\n')
    assert f"{path}, line 4" in refusal(path).what
    assert (refusal(path).got, refusal(path).expected) == ("3 fields", "2 fields: text, group")
    path.write_text('text\n"two\nlines"\n \n')
    assert "line 4" in str(refusal(path))
    path.write_text('text\n"never closed\n')
    assert f"{path}, line 2 is not valid CSV" in str(refusal(path))
    path.write_text('text\n"' + "x" * 200_000)
    assert f"{path}, line 2 is not valid CSV" in str(refusal(path))
    path.write_text("question;answer\na;b\n")
    assert "prompts.text_column=question" in str(refusal(path))
    path.write_text("")
    assert str(path) in refusal(path).what


def test_what_does_not_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"no gzip")
    assert f"gzip -t {path}" in str(refusal(path).hint)
    whole = gzip.compress(b"".join(b"%d\n" % n for n in range(1000)))
    path.write_bytes(whole[: len(whole) // 2])
    assert f"gzip -t {path}" in str(refusal(path).hint)
    monkeypatch.setattr(prompt_files, "MAX_UNPACKED_BYTES", 10)
    path.write_bytes(whole)
    assert "GiB" in str(refusal(path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.json", "pd.read_json"),
        ("a.xlsx", "CSV"),
        ("a.zip", "unzip"),
        ("a.jsonl.zst", "zstd -d"),
        ("a", "rename it"),
        ("a.parquet.gz", "gunzip"),
        ("a.arrow", "Dataset.from_file"),
        ("a.json.gz", "gz"),
    ],
)
def test_another_suffix_lists_what_is_read(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_text("x")
    error = refusal(tmp_path / name)
    assert told in str(error.hint)
    assert ".txt .jsonl .ndjson .csv .tsv .parquet (text and CSV also as .gz)" in str(error)


USER, ASSISTANT = {"role": "user", "content": "Is it good?"}, {"role": "assistant", "content": "It is."}
OLD = [{"from": "human", "value": "Is it good?"}, {"from": "gpt", "value": "It is."}]
CHATS: dict[str, tuple[str, dict[str, Any], str]] = {
    "messages": ("c.jsonl", {"messages": [{"role": "system", "content": "Be kind."}, USER, ASSISTANT]}, "text"),
    "prompt of messages": ("c.jsonl", {"prompt": [USER], "answer": "x"}, "prompt"),
    "prompt not named": ("c.jsonl", {"prompt": [USER], "answer": "x"}, "text"),
    "conversations": ("c.jsonl", {"conversations": OLD}, "text"),
    "messages as the column": ("c.jsonl", {"messages": [USER]}, "messages"),
    "packed": ("c.jsonl.gz", {"messages": [USER]}, "messages"),
    "parquet": ("c.parquet", {"messages": [USER, ASSISTANT]}, "text"),
    "parquet as the column": ("c.parquet", {"messages": [USER, ASSISTANT]}, "messages"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHATS)
def test_conversations_come_with_a_command_that_converts_them(case: str, tmp_path: Path) -> None:
    name, row, column = CHATS[case]
    path = tmp_path / name
    line = (json.dumps(row) + "\n").encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_bytes(gzip.compress(line) if path.suffix == ".gz" else line)
    do = refusal(path, column).hint
    assert do is not None
    assert "conversation" in do
    command = shlex.split(do[do.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path, timeout=120)
    assert load_prompts(tmp_path / "prompts.jsonl") == [Prompt.of("Is it good?")]


def test_a_folder_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "x"}')
    error = refusal(tmp_path)
    assert "folder" in error.what
    assert str(tmp_path / "data" / "train.jsonl") in str(error.got)


@pytest.mark.parametrize(
    "reference", ["openai/gsm8k", "hf://datasets/openai/gsm8k", "https://huggingface.co/datasets/openai/gsm8k"]
)
def test_a_data_set_of_the_hub(reference: str) -> None:
    do = str(refusal(Path(reference)).hint)
    assert do.startswith("hf download openai/gsm8k --repo-type dataset --local-dir data/gsm8k ")


def test_other_addresses_and_missing_files() -> None:
    assert "local file" in str(refusal(Path("s3://bucket/prompts.jsonl")).expected)
    assert "data/prompts.jsonl" in refusal(Path("data/prompts.jsonl")).what


def test_commands_for_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download_command("org/rm-1.5b", "model") == "hf download org/rm-1.5b --local-dir models/rm-1.5b"
    assert download_command("a/b/c", "model") is None
    assert download_command("/a/b", "model") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "rm").mkdir(parents=True)
    assert download_command("org/rm", "model") is None
