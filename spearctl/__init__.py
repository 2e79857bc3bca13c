"""The command line of spearctl: one module per command, rendering, configuration and errors.

Importing this package costs nothing and changes nothing; `spearctl.main` is the way in.
"""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    # Reading the metadata of installed packages takes milliseconds that only `--version` should pay.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("spearctl")
        except PackageNotFoundError:  # run from a checkout that was never installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
