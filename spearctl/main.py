"""The way in: reads the command line, runs the command, and turns what comes of it into output and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spearctl.isolation import isolate

if TYPE_CHECKING:
    from spearctl.options import Invocation


def entry() -> None:
    """Runs the program; what the console script and `python -m spearctl` call."""
    isolate()
    from spearctl.streams import settle

    settle()
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit code. Every exception ends here.
    """
    # Nothing but `isolation` may be imported before `isolate` has run.
    from spearctl.errors import StdoutError, explain
    from spearctl.options import Invocation
    from spearctl.signals import Signalled, raised

    invocation = Invocation()
    try:
        with raised():
            return _run(list(arguments), invocation)
    except BrokenPipeError:
        _silence()
        return 128 + signal.SIGPIPE
    except StdoutError as error:
        from spearctl.output import report

        _silence()
        failure = explain(error)
        report(invocation.command, failure, as_json=False)
        return failure.code
    except Signalled as signalled:  # while the outcome was being printed
        return signalled.exit_code


def _run(arguments: list[str], invocation: Invocation) -> int:
    from spearctl import errors, output
    from spearctl.options import wants_json
    from spearctl.signals import Signalled

    try:
        result = _dispatch(arguments, invocation)
        if not isinstance(result, output.Result):
            return int(result or 0)  # help was printed
        failure = errors.explain(result.error) if result.error is not None else None
        output.emit(invocation.command, result, failure, as_json=invocation.options.json)
    except (BrokenPipeError, errors.StdoutError):
        raise
    except (Exception, Signalled) as error:
        failure = errors.explain(error)
        if invocation.options.debug or "--debug" in arguments:
            traceback.print_exception(error)
        command = invocation.command if failure.command is None else failure.command
        output.report(command, failure, as_json=invocation.options.json or wants_json(arguments))
    return errors.OK if failure is None else failure.code


def _dispatch(arguments: list[str], invocation: Invocation) -> Any:
    """Returns what the command returned, or the exit code of what typer did itself."""
    from typer.main import get_command

    from spearctl.app import build

    try:
        return get_command(build()).main(args=arguments, prog_name="spearctl", standalone_mode=False, obj=invocation)
    except SystemExit as ended:
        # typer ends the process by itself when nobody reads what it prints.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        return ended.code


def _silence() -> None:
    # The interpreter flushes stdout once more at its end, which must not complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
