"""What the command line itself can refuse, and the one table from exception to exit code.

SpearctlError
 +- UsageError        what was typed cannot be done: a flag, an argument, a missing answer
 +- ConfigError       a setting is wrong, or there is no home yet
 +- NoSwarmError      the command needs a swarm, and this home belongs to none
 +- StoppedError      this home belongs to a swarm, and its node does not run
 +- NodeFailedError   a bug in the running node
 +- StdoutError       what there is to say cannot be written
 +- HomeError         the home is damaged, newer than this program, or not a home
     +- HomeLockedError   another process is training in it

Exit codes: 0 ok, 1 a bug, 2 usage, 3 a member whose node is stopped, 4 configuration or profile, 5 identity or trust,
6 network, 7 training or model, 8 feedback data, 9 home locked, damaged or newer, 128 + N stopped by signal N.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spearctl.signals import Signalled

if TYPE_CHECKING:
    from typer import TyperException

OK = 0
BUG = 1
USAGE = 2
STOPPED = 3
CONFIG = 4
IDENTITY = 5
NETWORK = 6
TRAINING = 7
FEEDBACK = 8
HOME = 9

PHRASES = (  # what the library that reads values says, and what a person understands
    ("Value error, ", ""),
    (", unable to parse string as an integer", ""),
    (", unable to parse string as a number", ""),
    ("Input should be ", "it must be "),
)
OWN_PACKAGES = frozenset({"spearctl", "p2p", "profiles", "training"})
BUG_HINT = "this is a bug in spearctl: run the command again with --debug and report what it prints"


class SpearctlError(Exception):
    """Base of the command line's own errors.

    Attributes:
        message: What happened, with the value and the place, for a person.
        hint: The command or edit that mends it, if there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SpearctlError):
    """What was typed cannot be done."""


class ConfigError(SpearctlError):
    """A setting is wrong, or there is no home yet."""


class NoSwarmError(SpearctlError):
    """The command needs a swarm, and this home belongs to none."""


class StoppedError(SpearctlError):
    """This home belongs to a swarm, and its node does not run."""


class NodeFailedError(SpearctlError):
    """A bug in the running node."""


class StdoutError(SpearctlError):
    """What there is to say cannot be written to standard output."""


class HomeError(SpearctlError):
    """The home is damaged, newer than this program, or not a home."""


class HomeLockedError(HomeError):
    """Another process is training in this home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is told.

    Attributes:
        code: The exit code.
        kind: The exception's class, for scripts.
        message: What happened.
        hint: What mends it.
        command: The words of the command that was being typed, where the error knows better than the run.
        help_text: Help that says more to a person than the message.
    """

    code: int
    kind: str
    message: str
    hint: str | None = None
    command: str | None = None
    help_text: str | None = None


def explain(error: BaseException) -> Failure:
    """Says how an exception is told and what code it ends with; one that nobody foresaw is a bug, code 1."""
    import typer

    kind = type(error).__name__
    if isinstance(error, Signalled):
        return Failure(code=error.exit_code, kind=kind, message=str(error))
    if isinstance(error, typer.TyperException):
        return _explain_usage(error)
    message, hint = getattr(error, "message", str(error)), getattr(error, "hint", None)
    for known, code in _table():
        if isinstance(error, known):
            return Failure(code=code, kind=kind, message=message, hint=hint)
    if (package := _broken_package(error)) is not None:
        hint = f"install it again where spearctl runs: pip install --force-reinstall {package}"
        return Failure(code=CONFIG, kind=kind, message=f"{package} cannot be imported: {error}", hint=hint)
    if (told := _of_machine(error)) is not None:
        return Failure(code=TRAINING, kind=kind, message=told[0], hint=told[1])
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        hint = "look at the free space and the permissions there"
        return Failure(code=HOME, kind=kind, message=f"{place}{error.strerror or error}", hint=hint)
    return Failure(code=BUG, kind=kind, message=f"unexpected {kind}: {error}", hint=BUG_HINT)


def _of_machine(error: BaseException) -> tuple[str, str] | None:
    """Says that memory ran out or that a GPU failed, and what helps; None of any other error."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    is_full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    is_broken = False
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from training.halving import is_failure_of_gpu, is_out_of_memory

        is_full, is_broken = is_out_of_memory(error), is_failure_of_gpu(error)
    if is_full:
        smaller = "choose a smaller profile (see: spearctl profile list) or a smaller model"
        hint = f"close other programs, or {smaller}; train and eval take --memory-budget, too"
        return f"there is not enough memory: {reason}", hint
    if is_broken:
        return f"the GPU failed: {reason}", "nvidia-smi may say more; SPEARCTL_PROFILE=cpu does without it"
    return None


def _broken_package(error: BaseException) -> str | None:
    """Returns the name of a package of others that is missing or broken, None if that is not what went wrong.

    A library that cannot be loaded names no package: such are torch's, and it raises either class for them.
    """
    if isinstance(error, ImportError):
        package = (error.name or "torch").partition(".")[0]
        return None if package in OWN_PACKAGES | sys.stdlib_module_names else package
    is_library = type(error) is OSError and error.errno is None and "shared object" in str(error)
    return "torch" if is_library else None


def _table() -> tuple[tuple[type[Exception], int], ...]:
    """Returns classes with their exit codes; the first that fits decides."""
    # Imported here: only a run that failed pays for them.
    from p2p.errors import LedgerError, NetworkError, P2PError, PayloadError, TrustError
    from profiles import ProfileError
    from training.errors import FeedbackError, MissingPackageError, StoreError, TrainingError, UnknownAdapterError

    return (
        (UsageError, USAGE),
        (ConfigError, CONFIG),
        (NoSwarmError, CONFIG),
        (StoppedError, STOPPED),
        (NodeFailedError, BUG),
        (StdoutError, HOME),
        (HomeError, HOME),
        (TrustError, IDENTITY),
        (NetworkError, NETWORK),
        (LedgerError, HOME),
        (PayloadError, TRAINING),
        (P2PError, IDENTITY),
        (ProfileError, CONFIG),
        (MissingPackageError, CONFIG),
        (UnknownAdapterError, USAGE),
        (StoreError, HOME),
        (FeedbackError, FEEDBACK),
        (TrainingError, TRAINING),
    )


def _explain_usage(error: TyperException) -> Failure:
    """Puts what typer says of a command line into our words."""
    message = error.format_message().strip().rstrip(".")
    for theirs, ours in PHRASES:
        message = message.replace(theirs, ours)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "spearctl"
    return Failure(
        code=USAGE,
        kind="UsageError",
        message=message[:1].lower() + message[1:],
        hint=f"see how it is used: {path} --help",
        command=path.partition(" ")[2],
        help_text=getattr(error, "help_text", None),
    )
