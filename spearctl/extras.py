"""Optional packages: imported where a command needs one, or an error that says how to get it."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str, what: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: Its full name.
        extra: The extra of spearctl that brings it along.
        what: What needs it, for a person.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported.
    """
    from training.errors import MissingPackageError

    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] == package
        found = "is not installed" if missing else f"cannot be imported: {error}"
        raise MissingPackageError(
            f"{what} needs the package {package.replace('_', '-')}, which {found}", f"pip install 'spearctl[{extra}]'"
        ) from error
