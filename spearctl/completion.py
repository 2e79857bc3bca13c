"""The completion files for bash, zsh and fish, from the command line itself.

They hold all commands and options, so a Tab starts no process. What they cannot know without asking, such as the names
of adapter versions, is not completed; where a value is a file, the shell completes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typer import Context

FILES = {"bash": "spearctl", "zsh": "_spearctl", "fish": "spearctl.fish"}
"""What each shell wants its file to be called."""

FILE, FOLDER, NONE = "file", "folder", "none"

_FILE_WORDS = frozenset({"FILE", "LOG", "PATH", "IN", "OUT", "MODEL", "PROFILE"})
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        names: All of its names.
        help: For people, short.
        value: `file`, `folder`, `none` for what no shell knows, or the choices with `|` between; empty for a flag.
    """

    names: tuple[str, ...]
    help: str
    value: str


@dataclass(frozen=True, slots=True)
class Level:
    """What can be typed behind some commands.

    Attributes:
        path: The commands' words: "feedback add"; empty for the program itself.
        commands: Names and help.
        options: The global ones too.
        arguments: `file` if they are such, else `none`.
    """

    path: str
    commands: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    arguments: str


def files(root: Any) -> dict[str, str]:
    """Returns the completion files by file name.

    Args:
        root: The command line.
    """
    found = [*levels(Context(root, info_name="spearctl"))]
    made = {"bash": _bash(found), "zsh": _zsh(found), "fish": _fish(found)}
    return {FILES[shell]: "".join(f"{line}\n" for line in lines) for shell, lines in made.items()}


def levels(context: Any) -> Iterator[Level]:
    """The program, every group and every command."""
    parameters = [found for found in context.command.params if not getattr(found, "hidden", False)]
    arguments = [_value(found) for found in parameters if found.param_type_name == "argument"]
    children = {
        name: child for name, child in (getattr(context.command, "commands", None) or {}).items() if not child.hidden
    }
    yield Level(
        context.command_path.partition(" ")[2],
        tuple((name, _short(child.get_short_help_str(limit=1000))) for name, child in children.items()),
        tuple(
            Option(
                (*found.opts, *found.secondary_opts), _short(found.help or ""), "" if found.is_flag else _value(found)
            )
            for found in parameters
            if found.param_type_name == "option"
        ),
        FILE if FILE in arguments else NONE,
    )
    for name, child in children.items():
        yield from levels(Context(child, parent=context, info_name=name))


def _value(parameter: Any) -> str:
    """How the shell completes a value; its metavar tells."""
    metavar = str(parameter.metavar or "").strip("[]")
    words = metavar.split("|")
    if _FILE_WORDS & {*words}:
        return FILE
    return FOLDER if metavar == "DIR" else metavar if len(words) > 1 and metavar.islower() else NONE


def _short(text: str) -> str:
    line = " ".join(text.replace("`", "").split()).partition(". ")[0].rstrip(".")
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1].rstrip() + "…"


def _takes(level: Level) -> Iterator[tuple[str, str]]:
    """Options that take a value, by each of their names."""
    for option in level.options:
        yield from ((name, option.value) for name in option.names if option.value)


_BASH = """\
_spearctl() {
    local current=${COMP_WORDS[COMP_CWORD]} at= kind= word i commands options takes arguments
    local IFS=$' \\t\\n'
    _spearctl_of ''
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == '=' ]]; then
            continue  # between an option and its value
        elif [[ $kind ]]; then
            kind=
        elif [[ $takes == *" $word:"* ]]; then
            kind=${takes#*" $word:"}
            kind=${kind%% *}
        elif [[ $word != -* && " $commands " == *" $word "* ]]; then
            at="${at:+$at }$word"
            _spearctl_of "$at"
        fi
    done
    [[ $kind && $current == '=' ]] && current=
    COMPREPLY=()
    if [[ ! $kind && $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ ! $kind && $commands ]]; then
        COMPREPLY=($(compgen -W "$commands" -- "$current"))
    else
        case ${kind:-$arguments} in
            none) [[ $kind ]] || COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
            file) compopt -o default 2> /dev/null || { IFS=$'\\n'; COMPREPLY=($(compgen -f -- "$current")); } ;;
            folder) compopt -o dirnames 2> /dev/null || { IFS=$'\\n'; COMPREPLY=($(compgen -d -- "$current")); } ;;
            *) COMPREPLY=($(compgen -W "${kind//|/ }" -- "$current")) ;;
        esac
    fi
}

complete -F _spearctl spearctl"""

_ZSH = """\
_spearctl() {
    local at= kind= word arguments i
    local -a commands options
    local -A takes
    _spearctl_of ''
    for ((i = 2; i < CURRENT; i++)); do
        word=${(Q)words[i]}
        if [[ -n $kind ]]; then
            kind=
        elif (( ${+takes[$word]} )); then
            kind=${takes[$word]}
        elif [[ $word != -* && -n ${(M)commands:#$word:*} ]]; then
            at="${at:+$at }$word"
            _spearctl_of "$at"
        fi
    done
    if [[ -z $kind && $PREFIX == --*=* ]]; then
        kind=${takes[${PREFIX%%=*}]}
        compset -P '*='
    fi
    if [[ -z $kind && $PREFIX == -* ]]; then
        _describe -o option options
    elif [[ -z $kind ]] && (( $#commands )); then
        _describe command commands
    else
        case ${kind:-$arguments} in
            none) [[ -n $kind ]] || _describe -o option options ;;
            file) _files ;;
            folder) _files -/ ;;
            *) compadd -- ${(s:|:)kind} ;;
        esac
    fi
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _spearctl "$@"  # the first Tab, at which zsh runs this file as the completion itself
else
    compdef _spearctl spearctl
fi"""

_FISH = """\
function __spearctl_path
    set -l skip 0
    set -l path
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word %s
            set skip 1
        else if not string match -q -- '-*' $word
            set -a path $word
        end
    end
    echo "$path"
end

function __spearctl_at
    test (__spearctl_path) = "$argv[1]"
end

function __spearctl_in
    string match -q -- "$argv[1] *" (__spearctl_path)" "
end

complete -c spearctl -f"""


def _bash(found: list[Level]) -> Iterator[str]:
    yield from ("# Completion of spearctl for bash; made by `make man`.", "", "_spearctl_of() {", "    case $1 in")
    for level in found:
        options = " ".join(name for option in level.options for name in option.names)
        yield f"        {shlex.quote(level.path)})"
        yield f"            commands={shlex.quote(' '.join(name for name, _ in level.commands))}"
        yield f"            options={shlex.quote(options)}"
        yield f"            takes={shlex.quote(''.join(f' {name}:{value}' for name, value in _takes(level)))}"
        yield f"            arguments={level.arguments} ;;"
    yield from ("    esac", "}", "", _BASH)


def _zsh(found: list[Level]) -> Iterator[str]:
    yield from ("#compdef spearctl", "# Completion of spearctl for zsh; made by `make man`.", "")
    yield from ("_spearctl_of() {", "    case $1 in")
    for level in found:
        yield f"        {shlex.quote(level.path)})"
        yield "            commands=("
        yield from (f"                {shlex.quote(f'{name}:{help}')}" for name, help in level.commands)
        yield from ("            )", "            options=(")
        for option in level.options:
            yield from (f"                {shlex.quote(f'{name}:{option.help}')}" for name in option.names)
        yield "            )"
        yield f"            takes=({' '.join(f'{name} {shlex.quote(value)}' for name, value in _takes(level))})"
        yield f"            arguments={level.arguments} ;;"
    yield from ("    esac", "}", "", _ZSH)


def _fish(found: list[Level]) -> Iterator[str]:
    skipped = sorted({name for level in found for name, _ in _takes(level)})
    yield from ("# Completion of spearctl for fish; made by `make man`.", "", _FISH % " ".join(skipped))
    for level in found:
        for name, help in level.commands:
            yield f"complete -c spearctl -n {_condition('at', level)} -a {name} -d {_quoted(help)}"
        for option in level.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            line = f"complete -c spearctl -n {_condition('in', level)} {names} -d {_quoted(option.help)}"
            yield line + _fish_value(option.value)
        if level.arguments == FILE:
            yield f"complete -c spearctl -n {_condition('in', level)} -F"


def _condition(how: str, level: Level) -> str:
    if how == "in" and not level.path:
        how = "at"  # global options stand behind every command anyway
    return _quoted(f'__spearctl_{how} "{level.path}"')


def _fish_value(value: str) -> str:
    fixed = {"": "", NONE: " -x", FILE: " -rF", FOLDER: " -xa '(__fish_complete_directories)'"}
    return fixed[value] if value in fixed else f" -xa {_quoted(value.replace('|', ' '))}"


def _quoted(text: str) -> str:
    """A word for fish."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
