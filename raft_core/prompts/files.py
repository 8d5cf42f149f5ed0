"""Read files of prompts, chosen by suffix: every row with its line number, without loading the whole file.

``.txt`` (one prompt per line), ``.jsonl``/``.ndjson`` (one object per line), ``.csv``/``.tsv`` (a header, then rows;
``;`` works as a separator too), each also as ``.gz``; and ``.parquet``. All but text hold the prompt in a column of its
own, and may have the columns ``group``, ``source`` and ``reference``; an empty field of these in a CSV file counts as
missing. Lines are counted from 1, as in an editor; so are Parquet rows.
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
"""A longer line is refused before it fills the memory."""
MAX_UNPACKED_BYTES = 1 << 33
"""Maximum size of a prompts file, and of what a .gz file unpacks to."""
OPTIONAL = ("group", "source", "reference")
USUAL_NAMES = ("text", "prompt", "question", "instruction", "query", "input", "problem", "content")
"""Usual names of a column of plain prompts in public data sets."""
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
        f"{where}: {column} is a conversation (a list of messages), not a text",
        got=excerpt(value),
        expected="one text per prompt; with policy.chat_template: true it is sent as the user's turn",
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
            got=f"a folder with {found}" if found else "a folder without a file in a supported format",
            expected=f"a file: {_accepted()}",
            hint=f"write the path of one file in {keys}",
        )
    text = str(path)
    if path.suffix.lower() not in (*_READERS, ".gz") and (command := download_command(text, "dataset")):
        return InputError(
            f"prompts file not found: {text}",
            got="something that looks like a data set of the Hugging Face hub; raft reads local files only",
            expected=f"a file: {_accepted()}",
            hint=f"{command} and then write the path of one of its files, such as data/{path.name}/train.parquet, "
            f"in {keys} (for a gated or private data set run `hf auth login` first)",
        )
    if ":/" in text:  # what Path leaves of "https://"
        return InputError(
            f"prompts cannot be read from an address: {text}",
            expected=f"a local file: {_accepted()}",
            hint=f"download it (hf download, curl -LO, aws s3 cp), then write the path of the file in {keys}",
        )
    if path.exists():
        return InputError(
            f"{path} is not a regular file",
            got="a pipe, a socket or a device",
            expected=f"a file: {_accepted()}",
            hint=f"save the prompts to a file and write its path in {keys}",
        )
    return InputError(
        f"prompts file not found: {path}",
        expected=f"a file; relative paths start at the current directory, {Path.cwd()}",
        hint=f"correct the path in {keys}",
    )


def _unreadable(path: Path, suffix: str, *, packed: bool) -> InputError:
    lines = 'python -c \'import pandas as pd; pd.read_json("{}").to_json("{}", orient="records", lines=True)\''
    how = {
        ".json": "rename it to .jsonl if each line is one object; if it is an array, convert it: "
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
    do = how.get(suffix, "rename it if its content is in one of these formats, or convert it to JSON lines")
    return InputError(
        f"the format of this prompts file is not supported: {path}",
        got=f"suffix {suffix + '.gz' * packed or '(none)'}",
        expected=f"a file ending in one of {_accepted()}",
        hint=do,
    )


def _accepted() -> str:
    return f"{' '.join(_READERS)} (text and CSV also as .gz)"


def _refuse_columns(path: Path, where: str, text_column: str, columns: Sequence[str], row: Row | None = None) -> None:
    """Raise InputError: the text column is missing. The hint names the column that is probably meant."""
    do = "set the name of the column that holds the prompts: prompts.text_column=NAME"
    known = {str(name).lower(): str(name) for name in columns}
    texts = [
        known[name] for name in USUAL_NAMES if name in known and (row is None or isinstance(row[known[name]], str))
    ]
    chats = [known[name] for name in CONVERSATIONS if name in known and known[name] not in texts]
    if texts:
        do = f"set the name of the column that holds the prompts: prompts.text_column={texts[0]}"
    elif chats:
        keys = (_message_keys(row[chats[0]]) if row else None) or ("role", "user", "content")
        do = f"keep one turn of each conversation in {chats[0]}: {_conversion(path, chats[0], *keys)}"
    raise InputError(
        f"{where} has no column {text_column!r}",
        got=f"columns {', '.join(map(str, columns)) or '(none)'}",
        expected=f"a column {text_column!r} with the text of each prompt",
        hint=do,
    )


def _message_keys(value: object) -> tuple[str, str, str] | None:
    """(key of the role, name of the user's role, key of the text) of a list of messages; None for any other value."""
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
    """(number, line without its end) of a text file; a .gz file is unpacked while it is read."""
    try:
        with _opened(path) as file:
            yield from _lines_of(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} cannot be unpacked",
            got=error,
            expected="a complete gzip file",
            hint=f"download or copy it again; `gzip -t {path}` tests it",
        ) from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines_of(file: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    number = taken = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number, taken = number + 1, taken + len(line)
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{path}, line {number} is too long for a prompt",
                got=f"more than {MAX_LINE_BYTES >> 20} MiB in one line",
                expected="one prompt per line",
                hint="check that the file has line breaks and is in the format of its suffix",
            )
        if taken > MAX_UNPACKED_BYTES:
            raise InputError(
                f"{path} contains too much text",
                got=f"more than {MAX_UNPACKED_BYTES >> 30} GiB",
                expected=f"at most {MAX_UNPACKED_BYTES >> 30} GiB",
                hint="use a part of the file",
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number} is not UTF-8 text",
                got=f"byte 0x{line[error.start]:02x} at position {error.start} of the line",
                expected="a text file in UTF-8",
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
                f"{where} is not valid JSON",
                got=error,
                expected="one JSON object per line",
                hint="correct or remove this line; if the whole file is one JSON array, convert it to JSON lines",
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{where} is not a JSON object",
                got=excerpt(row),
                expected=f'one object per line, such as {{"{text_column}": "…"}}',
                hint="write each prompt as an object on a line of its own",
            )
        if text_column not in row:
            _refuse_columns(path, where, text_column, list(row), row)
        yield number, row


def _read_csv(path: Path, text_column: str) -> Rows:
    """Rows below the header; a quoted field may contain line breaks. The header decides the delimiter."""
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
                    f"{path}, line {number} does not have the fields of the header",
                    got=f"{len(fields)} fields",
                    expected=f"{len(columns)} fields: {', '.join(columns)}",
                    hint='put double quotes around each field that contains the separator or a line break: "a, b"',
                )
            row = dict(zip(columns, fields, strict=True))
            yield number, {name: value for name, value in row.items() if value or name not in OPTIONAL}
            number = reader.line_num + 2
    except csv.Error as error:
        raise InputError(
            f"{path}, line {number} is not valid CSV",
            got=error,
            expected='double quotes around fields, and doubled inside them: "a ""b"" c"',
            hint="correct this line, or save the file as JSON lines (.jsonl)",
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
        do = f"write the file again, with the prompts as strings in a column {text_column!r}"
        if fault.startswith(f"column {text_column} ") and " list" in fault:
            do = f"keep one turn of each conversation: {_conversion(path, text_column, 'role', 'user', 'content')}"
        raise _bad_parquet(path, fault, do)
    try:
        columns = pq.read_schema(path).names
        if text_column not in columns:
            _refuse_columns(path, str(path), text_column, columns)
        wanted = [name for name in names if name in columns]
        # As dictionaries: a text that is in a million rows is kept in memory once, and refused at its second row.
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                for row in zip(*batch.columns, strict=True):
                    number += 1
                    yield number, {name: value.as_py() for name, value in zip(wanted, row, strict=True)}
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, row {number} is not UTF-8 text",
            got=error.reason,
            expected="strings in UTF-8",
            hint="write the file again, with its columns as UTF-8 strings",
        ) from None
    except pa.ArrowException as error:
        raise _bad_parquet(path, error, "write the file again; a download may have been cut off") from None


def _bad_parquet(path: Path, got: object, do: str) -> InputError:
    return InputError(
        f"{path} cannot be read as a Parquet file of prompts",
        got=got,
        expected="a complete Parquet file with columns of strings",
        hint=do,
    )


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
