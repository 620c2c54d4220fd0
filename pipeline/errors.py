"""Why a run cannot go on, each kind with the exit code that the command line gives it."""


class PipelineError(Exception):
    """One line for the user: what was found, what was expected, what to do."""

    exit_code = 1


class InputRefusedError(PipelineError):
    """The scene can't be mapped; found before any work was done."""

    exit_code = 3


class FingerprintMismatchError(PipelineError):
    """A run of other inputs, model or options stands where this one should, or its output does."""

    exit_code = 5


class CorruptInputError(PipelineError):
    """A part of the scene couldn't be read although the scene had been accepted."""

    exit_code = 6


class DamagedError(CorruptInputError):
    """A block of the scene can't be decoded; the others may be sound."""


class StorageError(PipelineError):
    """The output can't be written: no space, no permission, no folder."""

    exit_code = 7


class ClusterError(PipelineError):
    """The scheduler or its workers can't be reached; trying again may help."""

    exit_code = 8


class UnreachableError(PipelineError):
    """A remote scene that had been accepted can't be reached any more; trying again may help."""

    exit_code = 8


class TilesFailedError(PipelineError):
    """Some tiles failed and went on failing when they were tried alone."""

    exit_code = 9


class WorkerDiedError(TilesFailedError):
    """A tile ended each process that tried it."""


class OverdueError(TilesFailedError):
    """A tile took longer than it may."""


class StoppedError(PipelineError):
    """The time that a run was given is over; what is left is done when the same command is typed.

    The code is EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class VerificationError(PipelineError):
    """What was stored isn't what the network says."""

    exit_code = 10
