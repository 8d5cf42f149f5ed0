"""Read a Parquet file of somebody else once where it can do no harm: in a child process with limits.

Reading a file that was spoilt on purpose (or by a disk) can end the whole process, not only raise: pyarrow's C++
aborts at some impossible numbers, and a few kilobytes can unpack to all memory. (This file is that child's
program, too.)
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MAGIC = b"PAR1"
WALL_S = 300
MEMORY_BYTES = 4 << 30
"""Memory that reading may take on top of what pyarrow takes."""
MAX_GROUP_BYTES = 1 << 30
"""Text of one row group, unpacked."""
LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20}
"""Of a file's own description of itself."""


def fault_of(path: Path, columns: Sequence[str]) -> str | None:
    """Why the ``columns`` of ``path`` (those that it has) cannot be read; None: they can."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return "it does not begin as Parquet does"
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(path), *columns]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=WALL_S)
    except subprocess.TimeoutExpired:
        return f"reading it did not end within {WALL_S} s"
    if done.returncode == 0:
        return None
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    return last or f"reading it ended the process ({done.returncode}): spoilt, or more than {MEMORY_BYTES >> 30} GiB"


def _read(path: str, columns: Sequence[str]) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _limit()
    try:
        with pq.ParquetFile(path, **LIMITS) as file:
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for name in wanted:
                if file.schema_arrow.field(name).type.num_fields:
                    return f"column {name} holds no texts but {file.schema_arrow.field(name).type}"
        with pq.ParquetFile(path, read_dictionary=wanted, **LIMITS) as file:
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                chunks = (group.column(i) for i in range(group.num_columns))
                size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in wanted)
                if size > MAX_GROUP_BYTES:
                    return f"row group {number} holds more text than prompts have: {size >> 20} MiB"
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
