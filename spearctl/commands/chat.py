"""`spearctl chat`: talks to the model, and notes what people say of its answers."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.learner import Learner, learner
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.signals import Signalled
from spearctl.text import count, tilde

if TYPE_CHECKING:
    from spearctl.screens import Screen
    from spearctl.talk import Tally

commands = group()

NEW_TOKENS = 256
LEAST_PROMPT = 64


@dataclass(frozen=True, slots=True)
class ChatResult(Result):
    """What a chat came to."""

    adapter: str
    log: Path
    tally: Tally
    mistakes: int
    is_interactive: bool
    train_line: str

    @property
    def error(self) -> Exception | None:
        if self.mistakes and not self.is_interactive:
            return UsageError(f"{count(self.mistakes, 'line')} of the input could not be done", "they are named above")
        return None

    def data(self) -> Mapping[str, Any]:
        tally = self.tally
        return {
            "event": "end",
            "adapter": self.adapter,
            "log": self.log,
            "answers": tally.answers,
            "right": tally.right,
            "wrong": tally.wrong,
        }

    def render(self, console: Page) -> None:
        tally = self.tally
        if self.is_interactive and (tally.right or tally.wrong):
            console.print(f"{tally.right} right and {tally.wrong} wrong noted in {tilde(self.log)}")
            console.next_steps(self.train_line)


@command(commands, "chat")
def chat(
    run: Run,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told first, instead of the home's setting.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help='Adapter version; "base" for none. Default: the one in use.')
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=10.0, metavar="T", help="0 always takes the likeliest word. Default: 0.8.")
    ] = 0.8,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"Most tokens of an answer. Default: {NEW_TOKENS}.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Repeats a chat. Default: another one every time.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile, instead of the home's.")
    ] = None,
) -> ChatResult:
    """Talks to the model; + or - after an answer teaches it.

    A verdict goes to the feedback log at once, for train to learn from. After "- what is wrong" the model tries again.
    /help lists more. Ctrl-C stops an answer, Ctrl-D leaves. In a pipe, every line is a question or a verdict.
    """
    config = run.config(profile=profile)
    from spearctl.screens import screen_for

    screen = screen_for(run)
    with ExitStack() as stack:
        is_shown = screen.is_interactive and not run.options.quiet
        with run.stderr.status(f"loading {config.model}") if is_shown else nullcontext():
            from spearctl.talk import Talk
            from training.rollout import Sampling
            from training.streaming import Voice

            ready = stack.enter_context(learner(run, config, adapter=adapter))
        sampling = Sampling(temperature=temperature, seed=secrets.randbits(32) if seed is None else seed)
        talk = Talk(run, ready, Voice(ready.lm, sampling), screen, system=system, limit=_limit(max_new_tokens, ready))
        _greet(run, screen, config, ready)
        try:
            talk.run()
        except Signalled as signalled:
            if not screen.is_interactive or signalled.signal is not signal.SIGINT:
                raise
            screen.piece("\n")  # behind the ^C of the terminal
        log, train_line = run.home.feedback_path, run.spell("train")
        return ChatResult(ready.adapter, log, talk.tally, screen.mistakes, screen.is_interactive, train_line)


def _limit(asked: int | None, ready: Learner) -> int:
    """Most new tokens of an answer.

    Raises:
        UsageError: They leave no room for a question.
    """
    most = ready.lm.max_sequence_tokens
    if asked is None:
        return min(NEW_TOKENS, most // 2)
    if asked > most - LEAST_PROMPT:
        raise UsageError(
            f"--max-new-tokens {asked} leaves no room for a question: the model reads {most} tokens in all",
            f"allow at most {most - LEAST_PROMPT}, or choose a profile with a larger max_sequence",
        )
    return asked


def _greet(run: Run, screen: Screen, config: Config, ready: Learner) -> None:
    is_chat = ready.lm.prompt_format == "chat"
    if screen.is_interactive or run.options.json or not is_chat:
        manner = "" if is_chat else " It is a base model: it goes on with a text rather than answer."
        text = f"{config.model} with adapter {ready.adapter}.{manner} /help lists commands, Ctrl-D leaves."
        screen.tell("ready", text, model=config.model, adapter=ready.adapter)
