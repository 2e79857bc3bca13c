"""Answers token by token: the same as without anybody who reads along, and never half a character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.learner import load_tiny, stir, user
from training.cache import Prefixes
from training.errors import Interrupted
from training.models import LanguageModel
from training.rollout import GREEDY, Sampling, sample
from training.streaming import TextStream, Voice

WARM = Sampling(seed=3)


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    """With an adapter that changes what it says."""
    stir(tiny, scale=0.1)
    return tiny


def bytes_as_tokens(lm: LanguageModel, data: bytes) -> list[int]:
    """One token a byte, merged with none of its neighbours."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    return [lm.tokenizer.convert_tokens_to_ids(letters[byte]) for byte in data]


def pieces(lm: LanguageModel, tokens: list[int]) -> list[str]:
    stream = TextStream(lm)
    return [*(stream.push(token) for token in tokens), stream.end()]


def test_a_character_of_several_bytes_comes_whole(tiny_chat: LanguageModel) -> None:
    text = "é→🙂e"
    found = pieces(tiny_chat, bytes_as_tokens(tiny_chat, text.encode()))
    assert found == ["", "é", "", "", "→", "", "", "", "🙂", "e", ""]


def test_bytes_that_become_no_character_are_told_in_the_end(tiny_chat: LanguageModel) -> None:
    assert pieces(tiny_chat, bytes_as_tokens(tiny_chat, b"a\xf0\x9f")) == ["a", "", "", "\ufffd"]
    assert pieces(tiny_chat, bytes_as_tokens(tiny_chat, b"\xffab")) == ["", "\ufffda", "b", ""]


@given(st.lists(st.integers(0, 299), max_size=24))
def test_the_pieces_are_the_text(tiny_chat: LanguageModel, tokens: list[int]) -> None:
    assert "".join(pieces(tiny_chat, tokens)) == tiny_chat.decode(tokens)


def test_every_token_is_told_as_it_is_chosen(lm: LanguageModel) -> None:
    prompts, limits = [[70, 71], [80], [90, 91, 92]], [5, 3, 7]
    told: dict[int, list[int]] = {0: [], 1: [], 2: []}
    found = sample(lm, prompts, limits, WARM, batch=2, on_token=lambda at, token: told[at].append(token))
    assert [tuple(tokens) for tokens in told.values()] == [completion.tokens for completion in found]
    assert found == sample(lm, prompts, limits, WARM, batch=2)


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_a_conversation_says_what_it_would_say_without_anything_kept(lm: LanguageModel, sampling: Sampling) -> None:
    voice = Voice(lm, sampling)
    turns = [user("One?")]
    for number in range(4):
        prompt = lm.encode_prompt(turns)
        shown: list[str] = []
        answer = voice.answer(prompt, 12, shown.append)
        (plain,) = sample(lm, [prompt], [12], sampling, batch=1, streams=[number])
        assert "".join(shown) == answer.text == lm.decode(plain.tokens)
        assert (answer.tokens, answer.ended) == (len(plain.tokens), plain.ended)
        turns += [type(turns[0])("assistant", answer.text), user(f"And {number}?")]


def test_what_is_kept_are_the_prompt_and_the_answer(lm: LanguageModel) -> None:
    voice = Voice(lm, GREEDY)
    prompt = lm.encode_prompt([user("One?")])
    told: list[str] = []
    voice.answer(prompt, 8, told.append)
    (plain,) = sample(lm, [prompt], [8], GREEDY, batch=1)
    known = voice._prefixes.find([*prompt, *plain.tokens, 50, 51])
    assert known is not None
    assert known.length == len(prompt) + len(plain.tokens) - (not plain.ended)  # the last was not computed any more
    voice.answer([80, 81], 2, told.append)
    assert voice._prefixes.find([*prompt, 50]) is None  # only the newest stays


def test_a_reader_can_stop_an_answer_and_ask_on(lm: LanguageModel) -> None:
    voice = Voice(lm, GREEDY)
    prompt = lm.encode_prompt([user("One?")])
    (plain,) = sample(lm, [prompt], [20], GREEDY, batch=1)
    assert len(plain.tokens) == 20

    seen: list[str] = []

    def stop(piece: str) -> None:
        seen.append(piece)
        if len(seen) == 5:
            raise Interrupted("enough")

    answer = voice.answer(prompt, 20, stop)
    assert (answer.tokens, answer.ended) == (5, False)
    assert lm.decode(plain.tokens).startswith(answer.text)
    later = [*prompt, *plain.tokens[:5], 70, 71]
    (fresh,) = sample(lm, [later], [6], GREEDY, batch=1)
    assert voice.answer(later, 6, seen.append).text == lm.decode(fresh.tokens)


def test_a_model_without_turns_says_one(raw_folder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load_tiny(raw_folder)  # type: ignore[arg-type]
    text = "\n\nyes, \nso\n\nQuestion"
    tokens = bytes_as_tokens(lm, text.encode())
    said = iter(tokens)
    import torch

    monkeypatch.setattr("training.rollout._pick", lambda *_: (torch.tensor([token := next(said)]), [token]))
    shown: list[str] = []
    answer = Voice(lm, GREEDY).answer([70, 71], 40, shown.append)
    assert answer.text == "".join(shown) == "yes, \nso"
    assert answer.ended
    assert len(list(said)) == len("Question")


def test_prefixes_of_self_play_keep_all(lm: LanguageModel) -> None:
    prefixes = Prefixes()
    sample(lm, [[70, 71, 72], [80, 81, 82]], [2, 2], GREEDY, batch=2, prefixes=prefixes)
    assert prefixes.find([70, 71, 72, 73]) is not None
    assert prefixes.find([80, 81, 82, 73]) is not None
