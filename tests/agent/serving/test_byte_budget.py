"""Bytes of many clients are counted against one limit."""

from visreplay.agent.serving.byte_budget import ByteBudget


def test_clients_share_a_limit_and_give_back_what_they_took() -> None:
    budget = ByteBudget(10)
    with budget.share() as first:
        assert first.take(6)
        with budget.share() as second:
            assert not second.take(5) and second.held == 0
            assert second.take(4)
            assert budget.held == 10 and not first.take(1)
            second.give_back(1)
            assert first.take(1)
        assert budget.held == 7
        first.give_back()
        assert budget.held == 0
    assert budget.held == 0
