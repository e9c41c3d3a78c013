"""What a router makes of answers to requests that it sent more than once (rule 16)."""

from __future__ import annotations

import pytest

from fortdb.router.channels import Channel, Unanswered

COMMAND = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"
DEADLINE_MS = 5_000
NOT_READY = b"-UNAVAILABLE partition p-000 did not become ready on b in time; it was not executed\r\n"
BUSY = b"-BUSY 20000 requests wait on b already\r\n"


class FakeLink:
    is_up = True

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)


class FakeSlot:
    reply: bytes | None = None

    def complete(self, reply: bytes) -> None:
        self.reply = reply


def sent_to_two_leaders(is_write: bool) -> tuple[Channel, FakeLink, FakeSlot]:
    """The first leader has the request in its log, perhaps; then another leads."""
    channel, first, second, slot = Channel(0, "p-000"), FakeLink(), FakeLink(), FakeSlot()
    channel.route("a", 1, first)
    channel.send(Unanswered(COMMAND, slot, is_write, DEADLINE_MS))
    channel.route("b", 2, second)
    assert len(first.sent) == len(second.sent) == 1
    return channel, second, slot


@pytest.mark.parametrize("refusal", [NOT_READY, BUSY])
def test_a_write_that_a_former_leader_may_have_is_not_called_unexecuted(refusal: bytes) -> None:
    channel, link, slot = sent_to_two_leaders(is_write=True)
    channel.answered(2, 1, refusal, link)
    assert slot.reply is not None
    assert slot.reply.startswith(b"-TIMEOUT ")


@pytest.mark.parametrize("refusal", [NOT_READY, BUSY])
def test_nor_one_that_was_sent_again_on_a_new_connection(refusal: bytes) -> None:
    channel, first, second, slot = Channel(0, "p-000"), FakeLink(), FakeLink(), FakeSlot()
    channel.route("a", 1, first)
    channel.send(Unanswered(COMMAND, slot, True, DEADLINE_MS))
    channel.link_up("a", second)
    channel.answered(1, 1, refusal, second)
    assert slot.reply is not None
    assert slot.reply.startswith(b"-TIMEOUT ")


@pytest.mark.parametrize("code", ["NOREPLICAS", "DISKFULL"])
def test_what_a_leader_was_sent_twice_it_may_execute_when_it_can_write_again(code: str) -> None:
    """The first copy may wait on the connection that broke, and be read after the second was refused."""
    refusal = f"-{code} not now\r\n".encode()
    channel, first, second, slot = Channel(0, "p-000"), FakeLink(), FakeLink(), FakeSlot()
    channel.route("a", 1, first)
    channel.send(Unanswered(COMMAND, slot, True, DEADLINE_MS))
    channel.link_up("a", second)
    channel.answered(1, 1, refusal, second)
    assert slot.reply is not None and slot.reply.startswith(b"-TIMEOUT ")
    later = FakeSlot()
    channel.send(Unanswered(COMMAND, later, True, DEADLINE_MS))
    channel.answered(1, 2, refusal, second)
    assert later.reply == refusal


@pytest.mark.parametrize("reply", [b":1\r\n", b"-NOREPLICAS 1 of 2\r\n", b"-ERR value is not an integer\r\n"])
def test_what_a_ready_leader_says_of_it_is_the_truth(reply: bytes) -> None:
    """A leader that executes has committed an entry of its own epoch: no former log comes back."""
    channel, link, slot = sent_to_two_leaders(is_write=True)
    channel.answered(2, 1, reply, link)
    assert slot.reply == reply


def test_a_write_that_was_sent_once_was_not_executed() -> None:
    channel, link, slot = Channel(0, "p-000"), FakeLink(), FakeSlot()
    channel.route("b", 1, link)
    channel.send(Unanswered(COMMAND, slot, True, DEADLINE_MS))
    channel.answered(1, 1, NOT_READY, link)
    assert slot.reply == NOT_READY


def test_a_read_may_be_refused_as_often_as_it_is_sent() -> None:
    channel, link, slot = sent_to_two_leaders(is_write=False)
    channel.answered(2, 1, NOT_READY, link)
    assert slot.reply == NOT_READY


def test_what_a_leader_said_in_a_former_epoch_is_not_the_answer_in_a_later_one() -> None:
    """It led, another did, it leads again: a swap that did not apply the first time may have applied since."""
    channel, first, second, slot = Channel(0, "p-000"), FakeLink(), FakeLink(), FakeSlot()
    channel.route("a", 1, first)
    channel.send(Unanswered(COMMAND, slot, True, DEADLINE_MS))
    channel.route("b", 2, second)
    channel.route("a", 3, first)
    channel.answered(1, 1, b"$-1\r\n", first)
    assert slot.reply is None
    channel.answered(3, 1, b"+OK\r\n", first)
    assert slot.reply == b"+OK\r\n"
