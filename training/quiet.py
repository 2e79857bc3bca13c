"""What libraries would put on stderr, which is ours."""

from __future__ import annotations

import warnings

from transformers.utils import logging


def quiet_libraries() -> None:
    """Keeps off stderr the libraries' own progress bars, their notices, and what they will change one day."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\..*")
