"""One table from exception to exit code, settings and their precedence, homes and their lock, signals."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

import training.errors as learner
from profiles import ProfileError
from spearctl import config
from spearctl.errors import ConfigError, HomeError, HomeLockedError, NodeFailedError, SpearctlError, UsageError, explain
from spearctl.home import Home, cache_root, home_root
from spearctl.options import GlobalOptions
from spearctl.run import Run
from spearctl.signals import Signalled, deferred, raised
from tests.cli import make_config


def descendants(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("m"), 2),
        (learner.UnknownAdapterError("m"), 2),
        (ConfigError("m"), 4),
        (ProfileError("m"), 4),
        (learner.MissingPackageError("m"), 4),
        (learner.ModelError("m"), 7),
        (learner.TrainingError("m"), 7),
        (learner.FeedbackError("m"), 8),
        (learner.CheckError("m"), 8),
        (learner.StoreError("m"), 9),
        (HomeError("m"), 9),
        (HomeLockedError("m"), 9),
        (OSError(13, "Permission denied", "/x"), 9),
        (Signalled(signal.SIGTERM), 143),
        (RuntimeError("m"), 1),
        (MemoryError(), 7),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 7),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 7),
        (RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995'), 7),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), 7),
        (RuntimeError("CUDA error: unspecified launch failure"), 7),
        (RuntimeError("CUDA error: device-side assert triggered"), 1),
        (ImportError("no name x in spearctl.y", name="spearctl.y"), 1),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 4),
        (ImportError("libcudnn.so.9: cannot open shared object file: No such file or directory"), 4),
        (OSError("libtorch_cpu.so: cannot open shared object file: No such file or directory"), 4),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int) -> None:
    failure = explain(error)
    assert failure.code == code
    assert failure.kind == type(error).__name__
    assert failure.message


def test_memory_that_ran_out_and_a_gpu_that_failed_are_told_apart_and_with_what_helps() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    for error in (
        caught.value,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("unable to mmap 9 bytes from file </x/model.safetensors>: Cannot allocate memory (12)"),
    ):
        out = explain(error)
        assert out.code == 7
        assert out.message.startswith("there is not enough memory: ")
        assert "spearctl profile list" in str(out.hint)
    failed = explain(RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ..."))
    assert failed.message == "the GPU failed: CUDA error: unspecified launch failure"
    assert "SPEARCTL_PROFILE=cpu" in str(failed.hint)


@pytest.mark.parametrize(
    "error", [ImportError("libc10.so: no such file"), OSError("libc10.so: cannot open shared object file")]
)
def test_a_torch_that_cannot_be_loaded_is_to_be_installed_again(error: Exception) -> None:
    failure = explain(error)
    assert failure.message == f"torch cannot be imported: {error}"
    assert failure.hint == "install it again where spearctl runs: pip install --force-reinstall torch"


@pytest.mark.parametrize("tree", [SpearctlError, learner.TrainingError, ProfileError])
def test_no_error_of_ours_is_taken_for_a_bug(tree: type[Any]) -> None:
    for kind in descendants(tree) - {SpearctlError}:
        assert (explain(kind("m", "h")).code == 1) == (kind is NodeFailedError), kind
        assert explain(kind("m", "h")).hint == "h"


def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> Path:
    monkeypatch.setattr(config, "user_config_path", lambda: tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text(own)
    path = tmp_path / "config.toml"
    config.write(path, make_config(seed=1))
    return path


def test_flags_win_over_the_environment_that_over_the_home_that_over_the_own_and_that_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings(tmp_path, monkeypatch, "seed = 5\nprofile = 'apple'\n")

    def seed(flag: int | None = None, variable: str | None = None) -> int:
        environ = {} if variable is None else {"SPEARCTL_SEED": variable}
        return config.load(config.read_table(path), path, {"seed": flag}, environ).seed

    assert (seed(9, "3"), seed(None, "3"), seed(None, "")) == (9, 3, 1)
    path.write_text(path.read_text().replace("seed = 1\n", ""))
    assert seed() == 5
    (tmp_path / "own.toml").write_text("")
    assert seed() == 0


def test_what_a_home_is_made_of_cannot_be_overridden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings(tmp_path, monkeypatch, "model = 'own'\nsystem_prompt = 'own'\nname = 'own'\n")
    environ = {"SPEARCTL_MODEL": "variable", "SPEARCTL_NAME": "variable"}
    loaded = config.load(config.read_table(path), path, {}, environ)
    assert (loaded.model, loaded.system_prompt, loaded.name) == ("smollm2-135m", None, "lab")


def test_settings_are_written_as_they_are_read_and_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    written = make_config(name='a "quoted" \\ näme\n', system_prompt="line\nline", seed=2**63 - 1)
    config.write(path, written)
    assert config.check(config.read_table(path), config.Config, "x") == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


def test_a_write_that_fails_leaves_the_old_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    config.write(path, make_config())
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        config.write(path, make_config(name="other"))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


def test_the_home_is_the_flags_else_the_environments_else_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert home_root(Path("/flag"), {"SPEARCTL_HOME": "/variable"}) == Path("/flag")
    assert home_root(None, {"SPEARCTL_HOME": "~/variable"}) == Path("/home/ann/variable")
    assert home_root(None, {"SPEARCTL_HOME": ""}).name == "spearctl"
    assert home_root(Path("here"), {}) == Path.cwd() / "here"
    assert cache_root({"SPEARCTL_CACHE": "/cache"}) == Path("/cache")
    assert cache_root({}).parts[-2:] == ("spearctl", "models")


def test_a_command_line_is_spelled_so_that_a_shell_understands_it() -> None:
    run = Run("status", GlobalOptions(home=Path("/a b")))
    assert run.spell("adapter", "use", "it's") == """spearctl --home '/a b' adapter use 'it'"'"'s'"""
    assert Run("status", GlobalOptions()).spell("train") == "spearctl train"


def test_the_lock_names_its_holder_and_ends_with_the_block(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.holder() is None
    with home.training_lock("a longer command than the next one"):
        assert home.holder() is not None
    with home.training_lock("train"):
        holder = home.holder()
        assert holder is not None
        assert (holder.pid, holder.command) == (os.getpid(), "train")
        with pytest.raises(HomeLockedError, match=rf"process {os.getpid()} \(train\)"), home.training_lock("other"):
            pytest.fail("two held it")
        assert home.holder() == holder
    assert home.holder() is None
    with home.training_lock("again"):
        assert home.holder() is not None


def test_a_lock_file_that_says_nothing_names_nobody(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.training_lock("train"):
        home.lock_path.write_bytes(b"")
        with pytest.raises(HomeLockedError) as caught, home.training_lock("other"):
            pytest.fail("two held it")
    assert "another process" in caught.value.message
    assert "kill" not in str(caught.value.hint)


def test_the_first_signal_is_deferred_and_the_second_is_not() -> None:
    heard: list[str] = []
    with raised():
        with deferred(lambda: heard.append("first")) as stop:
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop
            assert heard == ["first"]
            with pytest.raises(Signalled):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Signalled) as caught:
            stop.raise_if_asked()
        assert caught.value.exit_code == 143
        with pytest.raises(Signalled):
            os.kill(os.getpid(), signal.SIGHUP)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
