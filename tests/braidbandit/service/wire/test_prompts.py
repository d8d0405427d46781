"""Messages become what a model reads."""

from types import SimpleNamespace

import pytest

from braidbandit.service.wire.prompts import prompt_of, transcript

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + TEMPLATE
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
)


def ask(*messages, prompt=None):
    return SimpleNamespace(messages=list(messages) or None, prompt=prompt)


@pytest.fixture
def tokenizer():
    tiny = pytest.importorskip("tiny")
    import copy

    return copy.deepcopy(tiny.tiny_tokenizer("llama"))


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (TEMPLATE, [SYSTEM, USER], "<system>Be brief.<user>Hello<assistant>"),
        (NO_SYSTEM, [SYSTEM, USER], "<user>Be brief.\n\nHello<assistant>"),
        (ALTERNATING, [USER, USER], "<user>Hello\n\nHello<assistant>"),
        ("{{ raise_exception('never') }}", [USER], "Hello\n"),
        ("{% broken", [USER], "Hello\n"),
        (None, [USER], "Hello\n"),
    ],
)
def test_chat_templates(tokenizer, template, messages, expected):
    tokenizer.chat_template = template
    assert prompt_of(tokenizer, ask(*messages)) == expected


def test_a_prompt_stays_as_it_is(tokenizer):
    tokenizer.chat_template = TEMPLATE
    assert prompt_of(tokenizer, ask(prompt="def f(")) == "def f("


def test_a_transcript():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert transcript(turns) == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
