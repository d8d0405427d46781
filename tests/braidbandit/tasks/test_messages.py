import pytest

from braidbandit.tasks.messages import request_in


def test_the_users_last_turn_is_the_request():
    chat = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{}, {"type": "text", "text": "b"}]},
        {"role": "tool", "content": "42"},
    ]  # fmt: skip
    assert request_in(chat) == "b"
    assert request_in(chat[:2]) == "first"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("hi", TypeError),
        ({"role": "user"}, TypeError),
        ([], ValueError),
        (["hi"], ValueError),
        ([{"role": "user", "content": 3}], TypeError),
        ([{"role": "system", "content": "only this"}], ValueError),
    ],
)
def test_what_are_no_messages(messages, error):
    with pytest.raises(error):
        request_in(messages)
