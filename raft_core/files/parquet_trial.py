"""Read a foreign Parquet file once in a child process with limits, before this process reads it.

Reading a corrupted or hostile file can end the whole process instead of raising: pyarrow's C++ code aborts on some
impossible numbers, and a few kilobytes can expand to fill the memory. (This file is also the program of that child.)
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MAGIC = b"PAR1"
WALL_S = 300
MEMORY_BYTES = 4 << 30
"""Memory that reading may use besides what pyarrow itself uses."""
MAX_GROUP_BYTES = 1 << 30
"""Limit for the text of one row group, decompressed."""
LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20}
"""Limits for the metadata of a file."""


def fault_of(path: Path, columns: Sequence[str]) -> str | None:
    """Why those of ``columns`` that ``path`` has cannot be read; None if they can."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return "it does not begin like a Parquet file"
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(path), *columns]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=WALL_S)
    except subprocess.TimeoutExpired:
        return f"reading it took longer than {WALL_S} s"
    if done.returncode == 0:
        return None
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    return last or f"reading it ended the process ({done.returncode}): corrupted, or more than {MEMORY_BYTES >> 30} GiB"


def _read(path: str, columns: Sequence[str]) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _limit()
    try:
        with pq.ParquetFile(path, **LIMITS) as file:
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for name in wanted:
                if file.schema_arrow.field(name).type.num_fields:
                    return f"column {name} holds {file.schema_arrow.field(name).type} instead of text"
        with pq.ParquetFile(path, read_dictionary=wanted, **LIMITS) as file:
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                chunks = (group.column(i) for i in range(group.num_columns))
                size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in wanted)
                if size > MAX_GROUP_BYTES:
                    return f"row group {number} holds {size >> 20} MiB of text, {MAX_GROUP_BYTES >> 20} MiB are allowed"
            for _ in file.iter_batches(batch_size=8192, columns=wanted):
                pass
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return None


def _limit() -> None:
    with Path("/proc/self/statm").open() as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    fault = _read(sys.argv[1], sys.argv[2:])
    if fault is not None:
        sys.stdout.write(f"\n{' '.join(fault.split())}\n")
        sys.exit(1)
