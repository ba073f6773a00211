"""How much each channel may have on its way: a large part while only bulk data is sent, else a small one."""

from __future__ import annotations

from reconciler.ssh.channels.send_budget import ALL, BESIDE, BULK, RECENT, SendBudget


def test_the_only_sender_gets_all() -> None:
    budget: SendBudget[str] = SendBudget()
    budget.sent("bulk")
    assert budget.share("bulk", 1.0) == ALL
    assert budget.share("bulk", 1.0 + 2 * RECENT) == ALL


def test_channels_that_send_much_share_all() -> None:
    budget: SendBudget[int] = SendBudget()
    for sender in range(4):
        budget.sent(sender)
    assert [budget.share(sender, 1.0) for sender in range(4)] == [BESIDE, BESIDE // 2, BESIDE // 3, ALL // 4]
    assert [budget.share(sender, 1.0 + BULK) for sender in range(4)] == [ALL // 4] * 4


def test_they_share_less_beside_a_channel_that_sends_little() -> None:
    budget: SendBudget[str] = SendBudget()
    budget.share("bulk", 1.0)
    budget.sent("small")
    assert budget.share("bulk", 1.0 + RECENT / 2) == BESIDE
    budget.share("more bulk", 1.0 + RECENT / 2)
    assert budget.share("bulk", 1.0 + RECENT / 2) == BESIDE // 2


def test_a_channel_that_pauses_does_not_count() -> None:
    budget: SendBudget[str] = SendBudget()
    budget.share("bulk", 1.0)
    budget.sent("small")
    assert budget.share("bulk", 1.1 + RECENT) == ALL
    budget.sent("small")
    assert budget.share("bulk", 1.1 + RECENT) == BESIDE


def test_a_channel_that_has_sent_much_counts_as_one_that_sends_little() -> None:
    """It goes on sending, in small amounts or slowly."""
    budget: SendBudget[str] = SendBudget()
    budget.share("other", 1.0)
    assert budget.share("bulk", 1.0) == ALL // 2
    assert budget.share("bulk", 1.0 + 2 * BULK) == BESIDE


def test_channels_that_have_stopped_are_found() -> None:
    budget: SendBudget[str] = SendBudget()
    budget.share("goes on", 1.0)
    budget.share("stops", 1.0)
    budget.share("ends", 1.0)
    budget.sent("small")
    budget.forget("ends")
    assert budget.stalled(1.0 + RECENT / 2) == []
    budget.share("goes on", 1.0 + RECENT)
    assert budget.stalled(1.1 + RECENT) == ["stops"]


def test_a_channel_that_has_ended_does_not_count() -> None:
    budget: SendBudget[str] = SendBudget()
    budget.share("bulk", 1.0)
    budget.sent("small")
    budget.forget("small")
    assert budget.last is None
    assert budget.share("bulk", 1.0) == ALL
    budget.share("more bulk", 1.0)
    budget.forget("more bulk")
    budget.forget("unknown")
    assert budget.share("bulk", 1.0) == ALL
