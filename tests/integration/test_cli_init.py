"""`spearctl init`: what it makes, that it changes nothing twice, and what a killed one leaves behind."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.homes import write_profile
from training.errors import ModelError


def test_init_makes_a_home_that_status_understands(cli: Cli, tiny_model: Path) -> None:
    outcome = cli(
        "init", "--model", str(tiny_model), "--name", "lap", "--profile", "cpu", "--system-prompt", "Be kind."
    )
    assert outcome.code == 0
    assert outcome.out.startswith("Made a spearctl home in ~/home\n")
    assert outcome.out.splitlines()[-1] == "  spearctl train"
    settings = tomllib.loads(cli.home.config_path.read_text())
    assert (settings["name"], settings["profile"], settings["model"]) == ("lap", "cpu", str(tiny_model))
    assert (settings["prompt_format"], settings["system_prompt"], settings["format"]) == ("raw", "Be kind.", 1)
    assert len(settings["model_fingerprint"]) == len(settings["adapter"]["shape"]) == 64
    assert (settings["adapter"]["rank"], settings["adapter"]["alpha"]) == (16, 32)
    status = cli("status", "--json").envelope
    assert status["ok"] is True
    assert status["data"]["model"]["fingerprint"] == settings["model_fingerprint"]
    assert status["data"]["health"] == []


def test_everything_in_a_home_is_for_its_owner_alone(cli: Cli, tiny_model: Path) -> None:
    assert cli("init", "--model", str(tiny_model), "--profile", "cpu").code == 0
    assert cli("feedback", "add", "--prompt", "p", "--check", "exact", "--expect", "x").code == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (cli.home.root, *cli.home.root.iterdir())}
    assert modes == {name: 0o700 if name in {"home", "adapters"} else 0o600 for name in modes}
    assert {"config.toml", "node.db", "adapters", "feedback.jsonl"} <= set(modes)


def test_init_again_changes_nothing_and_says_so(cli: Cli, tiny_model: Path) -> None:
    assert cli("init", "--model", str(tiny_model), "--profile", "cpu").code == 0
    before = cli.home.config_path.read_bytes()
    outcome = cli("init")
    assert outcome.code == 0
    assert "already; nothing was changed" in outcome.out
    assert cli("init", "--model", str(tiny_model)).code == 0
    assert cli("init", "--json").envelope["data"]["created"] is False
    assert cli.home.config_path.read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "value", "hint"),
    [
        ("--model", "smollm2-360m", "another home"),
        ("--system-prompt", "Be brief.", "another home"),
        ("--name", "other", 'name = "other"'),
        ("--profile", "cpu-small", 'profile = "cpu-small"'),
    ],
)
def test_init_again_with_another_value_is_code_4_and_changes_nothing(
    cli: Cli, flag: str, value: str, hint: str
) -> None:
    cli.make_home()
    before = cli.home.config_path.read_bytes()
    outcome = cli("init", flag, value)
    assert outcome.code == 4
    assert "nothing was changed" in outcome.err
    assert hint in outcome.err
    assert cli.home.config_path.read_bytes() == before


def test_a_model_path_means_the_same_from_every_folder(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert cli("init", "--model", tiny_model.name, "--profile", "cpu").code == 0
    assert tomllib.loads(cli.home.config_path.read_text())["model"] == str(tiny_model)


@pytest.mark.parametrize("said", ["flag", "environment", "own settings"])
def test_wherever_paths_are_said_they_mean_the_same_from_every_folder(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    start = cli.preferences.parent if said == "own settings" else cli.folder
    own = start / "own" / "mine"  # a slash makes a path, not its suffix alone
    own.parent.mkdir(parents=True)
    write_profile(own)
    profile, model = "own/mine", os.path.relpath(tiny_model, start)
    if said == "environment":
        monkeypatch.setenv("SPEARCTL_PROFILE", profile)
        monkeypatch.setenv("SPEARCTL_MODEL", model)
    if said == "own settings":
        cli.prefer(f"profile = '{profile}'\nmodel = '{model}'\n")
    assert cli("init", *(("--profile", profile, "--model", model) if said == "flag" else ())).code == 0
    settings = tomllib.loads(cli.home.config_path.read_text())
    assert (settings["profile"], settings["model"]) == (str(own), str(tiny_model))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("init", "--profile", "~nobody-of-that-name/own.toml"), 4),
        (("init", "--profile", "cpu", "--model", "~nobody-of-that-name/m.gguf"), 7),
        (("status", "--home", "~nobody-of-that-name/home"), 4),
    ],
)
def test_the_folder_of_a_user_that_there_is_not_holds_nothing(cli: Cli, words: tuple[str, ...], code: int) -> None:
    outcome = cli(*words)
    assert outcome.code == code
    assert "~nobody-of-that-name" in outcome.err


def test_flags_win_over_the_environment_and_that_over_the_users_own_settings(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.prefer(f"name = 'own'\nprofile = 'apple'\nmodel = '{tiny_model}'\nseed = 7\n")
    monkeypatch.setenv("SPEARCTL_PROFILE", "cuda-8g")
    monkeypatch.setenv("SPEARCTL_NAME", "variable")
    data = cli("init", "--profile", "cpu-small", "--json").envelope["data"]
    assert (data["profile"]["name"], data["name"]) == ("cpu-small", "variable")
    assert data["model"]["reference"] == str(tiny_model)
    assert tomllib.loads(cli.home.config_path.read_text())["seed"] == 7


def test_the_users_own_settings_may_lie_in_the_home_as_on_macos(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = cli.prefer(f"profile = 'apple'\nmodel = '{tiny_model}'\n")
    monkeypatch.setenv("SPEARCTL_HOME", str(own.parent))
    assert cli("init").code == 0
    assert cli("status", "--json").envelope["data"]["profile"] == "apple"


def test_without_a_profile_this_machine_decides_and_the_reason_is_told(cli: Cli, tiny_model: Path) -> None:
    data = cli("init", "--model", str(tiny_model), "--json").envelope["data"]
    assert data["profile"]["reason"]
    assert cli("profile", "show", data["profile"]["name"]).code == 0


def test_an_instruct_model_gets_chat_prompts(cli: Cli, tiny_chat_model: Path) -> None:
    data = cli("init", "--model", str(tiny_chat_model), "--profile", "cpu", "--json").envelope["data"]
    assert data["model"]["prompt_format"] == "chat"


def test_a_model_that_is_nowhere_is_code_7_and_leaves_no_home(cli: Cli) -> None:
    outcome = cli("init", "--model", "./nowhere", "--profile", "cpu")
    assert outcome.code == 7
    assert "\nhint: " in outcome.err
    assert not cli.home.is_initialised
    assert cli("status").code == 4


def test_an_unknown_profile_is_code_4_before_anything_is_made(cli: Cli) -> None:
    outcome = cli("init", "--profile", "gpu")
    assert outcome.code == 4
    assert not cli.home.root.exists()


def test_a_killed_init_leaves_a_home_that_the_next_one_completes(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(path: Path, config: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("spearctl.config.write", die)
        with pytest.raises(Killed):
            cli("init", "--model", str(tiny_model), "--profile", "cpu")
    assert cli("status").code == 4
    cli.log({"v": 1, "id": "kept", "prompt": "p"})
    assert cli("init", "--model", str(tiny_model), "--profile", "cpu", "--json").envelope["data"]["created"] is True
    assert cli("feedback", "stats", "--json").envelope["data"]["entries"] == 1


def test_a_failed_model_keeps_what_was_in_the_home(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise ModelError("cannot be fetched", "connect once")

    monkeypatch.setattr("training.sources.resolve", offline)
    outcome = cli("init", "--profile", "cpu")
    assert outcome.code == 7
    assert outcome.err == "error: cannot be fetched\nhint: connect once\n"


def test_an_empty_folder_becomes_a_home_for_its_owner_alone(cli: Cli, tiny_model: Path) -> None:
    cli.home.root.mkdir()
    cli.home.root.chmod(0o755)
    assert cli("init", "--model", str(tiny_model), "--profile", "cpu").code == 0
    assert stat.S_IMODE(cli.home.root.stat().st_mode) == 0o700


def test_a_folder_with_other_files_does_not_become_a_home(cli: Cli) -> None:
    cli.home.root.mkdir()
    (cli.home.root / "thesis.txt").write_text("mine")
    mode = cli.home.root.stat().st_mode
    outcome = cli("init", "--profile", "cpu")
    assert outcome.code == 9
    assert "thesis.txt" in outcome.err
    assert [path.name for path in cli.home.root.iterdir()] == ["thesis.txt"]
    assert cli.home.root.stat().st_mode == mode


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_the_place_of_a_home_is_code_9(cli: Cli, below: bool) -> None:
    cli.home.root.write_text("a file")
    home = cli.home.root / "below" if below else cli.home.root
    outcome = cli("init", "--profile", "cpu", "--home", str(home))
    assert outcome.code == 9
    assert "\nhint: " in outcome.err
    assert cli.home.root.read_text() == "a file"


def test_two_inits_at_once_do_not_mix(cli: Cli) -> None:
    cli.home.prepare()
    with cli.home.training_lock("init"):
        outcome = cli("init", "--profile", "cpu")
    assert outcome.code == 9
    assert "(init)" in outcome.err
