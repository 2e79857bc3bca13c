"""Settings of all tests."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

# How fast an example runs says more about the machine's other work than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Threads that wait for each other without work slow down everything beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell has background jobs ignore Ctrl-C, and nohup a hang-up, and what they start too; tests send both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Homes and ledgers are synced some 20,000 times. A kill does not ask whether that reached a disk, so memory serves.
_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 4 << 30
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
