"""Every error that RAFT raises for a user, in four parts: what, got, expected, and a hint (shown as "try: …").

    RaftError
    ├── ConfigError (ValueError)            a configuration that cannot run; found before a model loads
    ├── InputError (ValueError)             a file or folder of the user that cannot be used
    ├── RunBusyError (RuntimeError)         another process is using the run
    ├── RunMismatchError (RuntimeError)     a run directory that belongs to another configuration
    ├── IntegrityError (RuntimeError)       bytes that do not match their digest
    ├── ExampleError (OSError)              an asset of an example that could not be prepared
    ├── RewardError (RuntimeError)          a reward that failed on too many samples, or ended the process
    ├── GateStop (RuntimeError)             a validation suite or a gate stopped the run
    ├── LedgerMovedError (RuntimeError)     another ledger entry was added while one was being decided on
    └── StepError (RuntimeError)            a step that failed for any other reason
        └── DivergedError                   a training whose loss became NaN or infinite

Each is picklable, because Prefect and the training processes send them between processes.
"""

from raft_core.redaction import redacted_text


class RaftError(Exception):
    """Root of the tree. ``str(error)`` is the whole message for the person who runs the pipeline.

    Secrets are removed from it, because it is shown, logged, and kept in events and in Prefect's states.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        self.what, self.got, self.expected, self.hint = redacted_text(what), got, expected, hint
        super().__init__(self.what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got: {self.got}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        if self.hint is not None:
            parts.append(f"try: {self.hint}")
        return redacted_text("\n  ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.got, self.expected, self.hint)


def _rebuild(kind: type[RaftError], what: str, got: object, expected: object, hint: str | None) -> RaftError:
    return kind(what, got=got, expected=expected, hint=hint)


class ConfigError(RaftError, ValueError):
    """A configuration that cannot run."""


class InputError(RaftError, ValueError):
    """A file or folder of the user that cannot be used."""


class RunBusyError(RaftError, RuntimeError):
    """Another process is using this run."""


class RunMismatchError(RaftError, RuntimeError):
    """The run directory belongs to another configuration."""


class IntegrityError(RaftError, RuntimeError):
    """Bytes that do not match their digest."""


class ExampleError(RaftError, OSError):
    """An asset of one of the project's examples that is not prepared, or could not be."""


class RewardError(RaftError, RuntimeError):
    """A reward that failed on too large a share of the samples, or that ended the process."""


class GateStop(RaftError, RuntimeError):
    """A validation suite or a gate stopped the run; everything finished is kept."""


class LedgerMovedError(RaftError, RuntimeError):
    """Another entry was added to the ledger after it was read; nothing was written."""


class StepError(RaftError, RuntimeError):
    """A step failed."""


class DivergedError(StepError):
    """A training diverged; running the same training again would diverge too."""
