"""Files of prompts, by their suffix: the rows of each, streamed, with the line that a person finds them at.

``.txt`` (one prompt a line), ``.jsonl``/``.ndjson`` (one object a line), ``.csv``/``.tsv`` (a header, then rows; ``;``
between fields does too), each of them also with ``.gz`` behind; ``.parquet``. All but text hold the prompt in a column
of its own, and may hold ``group``, ``source`` and ``reference``; a field that is empty in a CSV file is not there.
Lines are counted from 1, as in an editor; Parquet rows as well.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from raft_core.errors import InputError
from raft_core.files.parquet_trial import fault_of
from raft_core.policies.hub import download_command

MAX_LINE_BYTES = 1 << 24
"""A longer line is no prompt; it is refused before it fills the memory."""
MAX_UNPACKED_BYTES = 1 << 33
"""More does not come out of a .gz file of prompts."""
OPTIONAL = ("group", "source", "reference")
USUAL_NAMES = ("text", "prompt", "question", "instruction", "query", "input", "problem", "content")
"""What data sets call a column of plain prompts."""
CONVERSATIONS = ("messages", "conversations", "conversation", "prompt", "chosen")
DELIMITERS = ",;\t"

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]


def read_rows(path: Path, text_column: str) -> Rows:
    """(line, row) of every row of ``path``; each row has ``text_column``. Raises InputError, or OSError."""
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    read = _READERS.get(suffix)
    if not path.is_file():
        raise _missing(path)
    if read is None or (packed and suffix == ".parquet"):
        raise _unreadable(path, suffix, packed=packed)
    return read(path, text_column)


def excerpt(value: object) -> str:
    """``value`` as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def refuse_conversation(value: object, column: str, where: str) -> None:
    """Raise InputError with a command that converts the file, where ``value`` is a list of messages."""
    if (keys := _message_keys(value)) is None:
        return
    raise InputError(
        f"{where}: {column} holds a conversation, not a text",
        got=excerpt(value),
        expected="a text; policy.chat_template: true renders it as the user's turn",
        hint=f"keep one turn of each conversation: {_conversion(Path(where.rpartition(', line ')[0]), column, *keys)}",
    )


# -- what cannot be read -----------------------------------------------------------------------


def _missing(path: Path) -> InputError:
    keys = "prompts.train, prompts.held_out, prompts.promotion or evaluation.perplexity_text"
    if path.is_dir():
        files = sorted(str(f) for f in path.rglob("*") if f.suffix.lower() in (*_READERS, ".gz") and f.is_file())
        found = ", ".join(files[:4]) + (", …" if len(files) > 4 else "")
        return InputError(
            f"{path} is a folder, not a file of prompts",
            got=found or "no file of prompts in it",
            expected=f"a file: {_accepted()}",
            hint=f"name one of its files in {keys}",
        )
    text = str(path)
    if path.suffix.lower() not in (*_READERS, ".gz") and (command := download_command(text, "dataset")):
        return InputError(
            f"no file {text}; if it is a data set of the Hugging Face hub, it has to be fetched first",
            expected=f"a file: {_accepted()}",
            hint=f"{command} and name one of the files in it, such as data/{path.name}/train.parquet, in {keys}",
        )
    if ":/" in text:  # what Path leaves of "https://"
        return InputError(
            f"prompts are read from local files, not from {text}",
            expected=f"a file: {_accepted()}",
            hint=f"fetch it (hf download, curl -LO, aws s3 cp), then name the file in {keys}",
        )
    if path.exists():
        return InputError(f"{path} is not a regular file", hint=f"correct {keys}")
    return InputError(
        f"missing prompts file: {path}", hint=f"correct {keys}; the path is relative to the current folder"
    )


def _unreadable(path: Path, suffix: str, *, packed: bool) -> InputError:
    lines = 'python -c \'import pandas as pd; pd.read_json("{}").to_json("{}", orient="records", lines=True)\''
    how = {
        ".json": "rename it to .jsonl if each line of it is an object; an array is converted by "
        + lines.format(path, path.with_suffix(".jsonl")),
        ".arrow": "python -c 'import datasets; "
        f'datasets.Dataset.from_file("{path}").to_json("{path.with_suffix(".jsonl")}")\'',
        ".xlsx": "save it as CSV (UTF-8)",
        ".ods": "save it as CSV (UTF-8)",
        ".zip": f"unpack it: unzip {path}",
        ".zst": f"unpack it: zstd -d {path}",
        ".xz": f"unpack it: xz -dk {path}",
        ".bz2": f"unpack it: bzip2 -dk {path}",
        ".parquet": f"unpack it: gunzip -k {path}",
        ".tar": f"unpack it: tar -xf {path}",
    }
    do = how.get(suffix, "rename it if it is one of those, or convert it to JSON lines")
    return InputError(
        f"cannot read prompts from {path}",
        got=f"suffix {suffix + '.gz' * packed or '(none)'}",
        expected=f"one of {_accepted()}",
        hint=do,
    )


def _accepted() -> str:
    return f"{' '.join(_READERS)} (text and CSV also as .gz)"


def _refuse_columns(path: Path, where: str, text_column: str, columns: Sequence[str], row: Row | None = None) -> None:
    """Raise InputError: the text column is not there. It says which other column it probably is."""
    do = "name the column of the prompts: prompts.text_column=NAME"
    known = {str(name).lower(): str(name) for name in columns}
    texts = [
        known[name] for name in USUAL_NAMES if name in known and (row is None or isinstance(row[known[name]], str))
    ]
    chats = [known[name] for name in CONVERSATIONS if name in known and known[name] not in texts]
    if texts:
        do = f"name the column of the prompts: prompts.text_column={texts[0]}"
    elif chats:
        keys = (_message_keys(row[chats[0]]) if row else None) or ("role", "user", "content")
        do = f"{chats[0]} holds conversations; keep one turn of each: {_conversion(path, chats[0], *keys)}"
    raise InputError(
        f"{where} has no column {text_column!r}", got=f"columns {', '.join(map(str, columns)) or '(none)'}", hint=do
    )


def _message_keys(value: object) -> tuple[str, str, str] | None:
    """(key of the role, the user's role, key of the text) of a list of messages; None: it is none."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        return None
    if "from" in value[0] and "value" in value[0]:
        return "from", "human", "value"
    return ("role", "user", "content") if "content" in value[0] else None


def _conversion(path: Path, column: str, role: str, user: str, text: str) -> str:
    """A command that writes the user's first turn of each conversation as JSON lines."""
    read = "pd.read_parquet" if path.suffix.lower() == ".parquet" else "pd.read_json"
    lines = "" if path.suffix.lower() == ".parquet" else ", lines=True"
    turn = f'next(m["{text}"] for m in c if m["{role}"] == "{user}")'
    return (
        f'python -c \'import pandas as pd; d = {read}("{path}"{lines}); '
        f'd["text"] = [{turn} for c in d["{column}"]]; d[["text"]].drop_duplicates().to_json('
        f'"{path.parent / "prompts.jsonl"}", orient="records", lines=True)\''
    )


# -- reading -----------------------------------------------------------------------------------


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of a text file, unpacked on the way if it is a .gz."""
    try:
        with _opened(path) as file:
            yield from _lines_of(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} cannot be unpacked", got=error, hint=f"fetch it again; gzip -t {path} checks it"
        ) from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines_of(file: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    number = taken = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number, taken = number + 1, taken + len(line)
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{path}, line {number} is no prompt",
                got=f"more than {MAX_LINE_BYTES >> 20} MiB in one line",
                hint="write one prompt a line",
            )
        if taken > MAX_UNPACKED_BYTES:
            raise InputError(f"{path} holds more than {MAX_UNPACKED_BYTES >> 30} GiB of text", hint="take a part of it")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number} is no UTF-8",
                got=f"byte 0x{line[error.start]:02x} at {error.start}",
                hint="save the file as UTF-8",
            ) from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def _read_text(path: Path, text_column: str) -> Rows:
    for number, text in _text_lines(path):
        yield number, {text_column: text}


def _read_json_lines(path: Path, text_column: str) -> Rows:
    for number, text in _text_lines(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where} is no JSON", got=error, expected="one object a line", hint="correct it, or remove the line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{where} is no JSON object",
                got=excerpt(row),
                expected=f'{{"{text_column}": "…"}}',
                hint="write one object a line",
            )
        if text_column not in row:
            _refuse_columns(path, where, text_column, list(row), row)
        yield number, row


def _read_csv(path: Path, text_column: str) -> Rows:
    """Rows under the header; a quoted field may hold line ends. The delimiter is the one that splits the header."""
    lines = _text_lines(path)
    first = next((text for _, text in lines), None)
    if first is None:
        return
    columns, delimiter = _header(path, first, text_column)
    reader = csv.reader((f"{text}\n" for _, text in lines), delimiter=delimiter, strict=True)
    number = 2
    try:
        for fields in reader:
            if len(fields) != len(columns):
                raise InputError(
                    f"{path}, line {number} does not fit its header",
                    got=f"{len(fields)} fields",
                    expected=f"{len(columns)}: {', '.join(columns)}",
                    hint='put a field that holds the separator or a line end into "…"',
                )
            row = dict(zip(columns, fields, strict=True))
            yield number, {name: value for name, value in row.items() if value or name not in OPTIONAL}
            number = reader.line_num + 2
    except csv.Error as error:
        raise InputError(
            f"{path}, line {number} is no CSV",
            got=error,
            expected='fields that hold quotes as "a ""b"" c"',
            hint="correct that line, or save the file as JSON lines",
        ) from None


def _header(path: Path, line: str, text_column: str) -> tuple[list[str], str]:
    """The columns and the delimiter of a CSV file by its first line."""
    found: list[str] = []
    for delimiter in DELIMITERS:
        try:
            columns = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        if columns.count(text_column) == 1:
            return columns, delimiter
        found = max(found, columns, key=len)
    _refuse_columns(path, f"the header of {path}", text_column, found)
    raise AssertionError


def _read_parquet(path: Path, text_column: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    names = list(dict.fromkeys((text_column, *OPTIONAL)))
    if fault := fault_of(path, names):
        do = "write it again"
        if fault.startswith(f"column {text_column} holds no texts but list"):
            do = f"keep one turn of each conversation: {_conversion(path, text_column, 'role', 'user', 'content')}"
        raise InputError(f"{path} is no Parquet file of prompts", got=fault, hint=do)
    try:
        columns = pq.read_schema(path).names
        if text_column not in columns:
            _refuse_columns(path, str(path), text_column, columns)
        wanted = [name for name in names if name in columns]
        # As dictionaries: a text that stands in a million rows is held once, and refused at its second row.
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                for row in zip(*batch.columns, strict=True):
                    number += 1
                    yield number, {name: value.as_py() for name, value in zip(wanted, row, strict=True)}
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, row {number} is no UTF-8", got=error.reason, hint="write the columns as UTF-8 strings"
        ) from None
    except pa.ArrowException as error:
        raise InputError(f"{path} is no Parquet file of prompts", got=error, hint="write it again") from None


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
