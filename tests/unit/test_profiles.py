"""Profile files: the shipped ones, and what is refused in a file of one's own."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import profiles
from profiles import Profile, ProfileError

FIELDS = [field.name for field in dataclasses.fields(Profile)]
GOOD = files("profiles").joinpath("cpu.toml").read_text(encoding="utf-8")


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "own.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        profiles.load(write(folder, text))
    return caught.value


@pytest.mark.parametrize("name", profiles.names())
def test_a_shipped_profile_loads_under_its_own_name(name: str) -> None:
    assert profiles.load(name).name == name


def test_names_lists_every_file_that_ships_and_nothing_else() -> None:
    shipped = {Path(str(entry)).stem for entry in files("profiles").iterdir() if str(entry).endswith(".toml")}
    assert set(profiles.names()) == shipped
    assert len(profiles.names()) == len(shipped)


def test_a_shipped_profile_runs_on_the_device_that_its_name_tells() -> None:
    devices = {name: profiles.load(name).device for name in profiles.names()}
    assert devices == {
        "phone": "cpu",
        "cpu-small": "cpu",
        "cpu": "cpu",
        "apple": "mps",
        "jetson": "cuda",
        "cuda-8g": "cuda",
        "cuda-24g": "cuda",
        "cuda-80g": "cuda",
    }


@pytest.mark.parametrize("family", [("phone", "cpu-small", "cpu"), ("jetson", "cuda-8g", "cuda-24g", "cuda-80g")])
def test_a_larger_machine_is_never_given_less_work(family: tuple[str, ...]) -> None:
    sizes = ("micro_batch", "rollout_batch", "rollouts", "steps", "batch", "max_sequence")
    members = [profiles.load(name) for name in family]
    for size in sizes:
        values = [getattr(member, size) for member in members]
        assert values == sorted(values), size


@pytest.mark.parametrize("field", FIELDS)
def test_cpu_toml_explains_every_field_in_a_comment_above_it(field: str) -> None:
    paragraph = next(p for p in GOOD.split("\n\n") if f"\n{field} = " in f"\n{p}")
    assert paragraph.startswith("# ")


def test_the_documentation_names_every_field_and_every_shipped_profile_and_no_other() -> None:
    text = (Path(profiles.__file__).parents[1] / "docs" / "profiles.md").read_text(encoding="utf-8")
    _, machines, fields = text.split("\n## ")[:3]
    assert re.findall(r"^\| `([a-z0-9_-]+)` \|", machines, flags=re.MULTILINE) == list(profiles.names())
    assert re.findall(r"^\| `([a-z0-9_-]+)` \|", fields, flags=re.MULTILINE) == FIELDS


def test_every_field_has_a_meaning_for_people() -> None:
    assert list(profiles.MEANINGS) == FIELDS
    assert all(profiles.MEANINGS.values())


def test_a_file_of_ones_own_is_read_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("micro_batch = 5", "micro_batch = 3").replace('"auto"', '"float16"'))
    expected = dataclasses.replace(profiles.load("cpu"), micro_batch=3, dtype="float16")
    assert profiles.load(path) == expected
    assert profiles.load(str(path)) == expected


def test_a_file_in_the_current_folder_cannot_take_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").write_text(GOOD.replace("micro_batch = 5", "micro_batch = 3"), encoding="utf-8")
    write(tmp_path, GOOD.replace("micro_batch = 5", "micro_batch = 3"))
    monkeypatch.chdir(tmp_path)
    assert profiles.load("cpu").micro_batch == 5
    with pytest.raises(ProfileError, match="there is no profile named 'own'"):
        profiles.load("own")
    assert profiles.load("own.toml").micro_batch == 3


def test_a_file_may_begin_with_the_mark_of_some_editors(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(profiles.dumps(profiles.load("cpu")), encoding="utf-8-sig")
    assert profiles.load(tmp_path / "own.toml") == profiles.load("cpu")


def test_a_path_may_start_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.load("~/own.toml").name == "cpu"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="there is no profile named 'gpu'") as caught:
        profiles.load("gpu")
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in profiles.names())


@pytest.mark.parametrize("path", ["/nowhere/own.toml", "/", "a\0b.toml", "~nobody-of-that-name/own.toml"])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(ProfileError, match="cannot read the profile file") as caught:
        profiles.load(path)
    assert repr(path) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name = \xff\xfe", "not UTF-8"),
        (b"name = ", "not valid TOML"),
        (b"steps = 1\nsteps = 2", "not valid TOML"),
        (b"steps = " + b"9" * 10_000, "not valid TOML"),
        (b"steps = " + b"[" * 100_000, "not valid TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    error = refused(tmp_path, content)
    assert reason in error.message
    assert "own.toml" in error.message


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_required(tmp_path: Path, field: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{field} = ")]
    assert f"{field}: missing" in refused(tmp_path, "\n".join(lines)).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", '""'),
        ("name", "3"),
        ("summary", r'"two\nlines"'),
        ("device", '"tpu"'),
        ("device", "[]"),
        ("dtype", '"float64"'),
        ("quantization", "4"),
        ("micro_batch", "0"),
        ("micro_batch", "8.0"),
        ("micro_batch", "true"),
        ("rollout_batch", "-1"),
        ("rollouts", "1000000"),
        ("steps", '"5"'),
        ("steps", "0x" + "f" * 10_000),
        ("steps", "[0x" + "f" * 10_000 + "]"),
        ("batch", "0"),
        ("max_sequence", "31"),
        ("threads", "-1"),
        ("checkpointing", "1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_is_right(tmp_path: Path, field: str, value: str) -> None:
    lines = [f"{field} = {value}" if line.startswith(f"{field} = ") else line for line in GOOD.splitlines()]
    error = refused(tmp_path, "\n".join(lines))
    assert f"{field}: must be " in error.message
    assert error.message.count("\n") == 1


def test_all_problems_of_a_file_are_reported_together(tmp_path: Path) -> None:
    text = GOOD.replace("micro_batch = 5", "microbatch = 8").replace("steps = 5", "steps = 0")
    text = text.replace("threads = 0", 'threads = "all"') + "colour = 1\n"
    error = refused(tmp_path, text)
    assert error.message.splitlines()[1:] == [
        "  steps: must be an integer from 1 to 10000, not 0",
        "  threads: must be an integer from 0 to 4096, not 'all'",
        "  micro_batch: missing, must be an integer from 1 to 4096",
        "  microbatch: no such field, perhaps micro_batch was meant",
        "  colour: no such field",
    ]
    assert error.hint is not None
    assert all(field in error.hint for field in FIELDS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[memory]\nlimit = 1", "memory.limit: no such field"),
        ("[train]\nmicro_batches = 1\nx = 2", "train.micro_batches: no such field, perhaps micro_batch was meant"),
        ("[train]\nmicro_batches = 1\nx = 2", "train.x: no such field"),
        ("[empty]", "empty: no such field"),
        ("[[list]]\nx = 1", "list: no such field"),
        ('"a.b" = 1', "a.b: no such field"),
    ],
)
def test_what_is_in_a_table_is_named_as_no_field_too(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in refused(tmp_path, f"{GOOD}\n{text}\n").message.replace("\n  ", "\n").splitlines()


def test_a_table_where_a_value_belongs_is_refused_by_its_field(tmp_path: Path) -> None:
    text = GOOD.replace("steps = 5\n", "") + "\n[steps]\nwins = 5\n"
    assert "steps: must be an integer from 1 to 10000, not {'wins': 5}" in refused(tmp_path, text).message


# Profiles of the user's own, by name


@pytest.mark.parametrize("name", profiles.names())
def test_a_written_profile_is_read_back_and_explains_every_field(tmp_path: Path, name: str) -> None:
    profile = profiles.load(name)
    text = profiles.dumps(profile)
    assert profiles.load(write(tmp_path, text)) == profile
    for field, meaning in profiles.MEANINGS.items():
        assert f"# {field}: {meaning}" in text


@given(name=st.text(min_size=1), summary=st.text(min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_of_a_profile_is_written_so_that_it_is_read_back(tmp_path: Path, name: str, summary: str) -> None:
    try:
        profile = dataclasses.replace(profiles.load("cpu"), name=name, summary=summary)
    except ProfileError:
        return
    assert profiles.load(write(tmp_path, profiles.dumps(profile))) == profile


def test_a_name_is_looked_for_among_ones_own_after_the_shipped(tmp_path: Path) -> None:
    for name in ("tuned", "cpu", "Not a name"):
        changed = dataclasses.replace(profiles.load("cpu"), micro_batch=3)
        (tmp_path / f"{name}.toml").write_text(profiles.dumps(changed), encoding="utf-8")
    assert profiles.load("tuned", tmp_path).micro_batch == 3
    assert profiles.load("cpu", tmp_path).micro_batch == 5
    assert profiles.names(tmp_path) == (*profiles.names(), "tuned")
    for refused_name in ("Not a name", "other", ".."):
        with pytest.raises(ProfileError, match="there is no profile named") as caught:
            profiles.load(refused_name, tmp_path)
    assert caught.value.hint is not None
    assert "tuned" in caught.value.hint


def test_a_pipe_is_no_profile_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    code = f"import pathlib, profiles; profiles.load('pipe', pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ProfileError: cannot read the profile file" in done.stderr
    assert "it is a pipe or a device" in done.stderr


def test_a_folder_of_ones_own_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(ProfileError, match="cannot be read by you") as caught:
        profiles.names(tmp_path)
    assert caught.value.hint == f"chmod u+rwx {tmp_path}"


def test_without_a_folder_of_ones_own_there_are_only_the_shipped(tmp_path: Path) -> None:
    assert profiles.names(tmp_path / "none") == profiles.names()


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("tuned", True),
        ("tuned-1.5gb", True),
        ("cpu", False),
        ("", False),
        ("../x", False),
        ("a b", False),
        ("A", False),
    ],
)
def test_a_profile_of_ones_own_has_a_plain_name_that_is_not_taken(name: str, free: bool) -> None:
    assert profiles.is_free(name) is free


def test_a_profile_changed_in_memory_keeps_the_rules() -> None:
    with pytest.raises(ProfileError, match="threads: must be"):
        dataclasses.replace(profiles.load("cpu"), threads=-1)


def test_a_profile_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.load("cpu").steps = 9  # type: ignore[misc]


@given(content=st.binary() | st.text().map(str.encode) | st.text().map(lambda text: (GOOD + text).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_a_profile_or_a_profile_error(tmp_path: Path, content: bytes) -> None:
    try:
        loaded = profiles.load(write(tmp_path, content))
    except ProfileError as error:
        assert "own.toml" in error.message
    else:
        assert loaded == profiles.load("cpu")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@given(field=st.sampled_from(FIELDS), value=scalars)
def test_any_value_is_kept_exactly_or_refused_by_its_field(field: str, value: object) -> None:
    try:
        changed = dataclasses.replace(profiles.load("cpu"), **{field: value})
    except ProfileError as error:
        assert f"{field}: must be " in error.message
    else:
        kept = getattr(changed, field)
        assert kept == value
        assert type(kept) is type(getattr(profiles.load("cpu"), field))


def test_profiles_are_read_and_hardware_is_found_without_torch() -> None:
    code = (
        "import profiles, sys; profiles.load('cpu'); profiles.choose(profiles.detect(accelerators=False)); "
        "print(sorted({'torch', 'transformers', 'numpy', 'rich', 'typer'} & set(sys.modules)))"
    )
    folder = Path(profiles.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
