import pytest
import torch
from shared import MakeAgent

from visreplay.replay_core import Method, ModelPair
from visreplay.tasks.evaluation.evaluate import evaluate, rollout_seed
from visreplay.tasks.evaluation.summary import summarise
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split, ids_of

TASK = get_task("visual-search-easy")


def test_an_evaluation_gives_a_record_for_each_sample(make_agent: MakeAgent) -> None:
    ids = TASK.sample_ids()[:3]
    records = list(evaluate(make_agent(Method.NONE), TASK, ids))
    assert [record["sample_id"] for record in records] == ids
    for record in records:
        (rollout,) = record["rollouts"]
        assert rollout["right"] == (rollout["trajectory"]["answer"] == record["expected"])
        assert rollout["cot_right"] is None
        assert rollout["trajectory"].keys() == {
            "question", "answer", "stop_reason", "seed", "steps", "images", "video", "messages"
        }  # fmt: skip
    summary = summarise(records)
    assert (summary.n, summary.errors) == (3, 0)
    assert summary.accuracy.low <= summary.accuracy.value <= summary.accuracy.high


def test_a_subset_in_another_order_has_the_same_trajectories(make_agent: MakeAgent) -> None:
    ids = TASK.sample_ids()[:3]
    agent = make_agent(Method.NONE, temperature=1.0)
    trajectories = [
        {
            record["sample_id"]: [
                [step["text"] for step in rollout["trajectory"]["steps"]]
                for rollout in record["rollouts"]
            ]
            for record in evaluate(agent, TASK, some, rollouts=2, seed=5)
        }
        for some in (ids, [ids[2], ids[0]])
    ]
    assert trajectories[0] == {ids[1]: trajectories[0][ids[1]], **trajectories[1]}


def test_every_rollout_has_its_own_stable_seed() -> None:
    seeds = {rollout_seed(s, i, j) for s in range(3) for i in ("a", "b", "1") for j in range(11)}
    assert len(seeds) == 99
    assert rollout_seed(0, "visual-search-easy-20000000", 0) == 1159350719


def test_after_an_error_the_other_samples_go_on(make_agent: MakeAgent) -> None:
    good = TASK.sample_ids()[0]
    records = list(evaluate(make_agent(Method.NONE), TASK, ["nothing", good]))
    assert records[0]["error"] == (
        "ValueError: 'nothing' is no sample of visual-search-easy; its ids are "
        "visual-search-easy-SEED"
    )
    assert records[0]["rollouts"] == []
    assert records[1]["error"] is None
    summary = summarise(records)
    assert (summary.n, summary.errors) == (1, 1)


def test_a_sample_that_memory_does_not_suffice_for_is_an_error(
    make_agent: MakeAgent, embedded_pair: ModelPair
) -> None:
    def too_much(*_: object) -> None:
        hook.remove()
        torch.empty(2**60)

    hook = embedded_pair.policy.language_model.layers[-1].register_forward_hook(too_much)
    records = list(evaluate(make_agent(Method.NONE), TASK, TASK.sample_ids()[:2]))
    first = str(records[0]["error"])
    assert first.startswith("MemoryExhaustedError: memory ran out") and "--recompute" in first
    assert records[0]["rollouts"] == []
    assert records[1]["error"] is None and records[1]["rollouts"]


def test_no_records_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="0 records cannot be summarised"):
        summarise([])


@pytest.mark.parametrize(
    ("answer", "expected"), [("{}", True), (" {} ", True), ("?", False), (None, False)]
)
def test_answers_are_compared_as_text(answer: str | None, expected: bool) -> None:
    sample = TASK.load(TASK.sample_ids()[0])
    text = answer and answer.format(sample.answer.lower())
    assert TASK.is_right(sample, text) is expected


def test_samples_that_are_played_at_once_have_the_same_records(make_agent: MakeAgent) -> None:
    task = get_task("visual-search-medium")
    ids = list(ids_of(task.name, range(Split.TUNING, Split.TUNING + 5)))
    options = {"rollouts": 2, "seed": 3}
    agents = (make_agent(Method.STATE, temperature=1.0) for _ in range(2))
    alone, at_once = (
        sorted(
            evaluate(agent, task, ids, concurrency=concurrency, **options),  # type: ignore[arg-type]
            key=lambda record: record["sample_id"],
        )
        for agent, concurrency in zip(agents, (1, 3), strict=True)
    )
    for one, other in zip(alone, at_once, strict=True):
        assert one["sample_id"] == other["sample_id"]
        for ours, theirs in zip(one["rollouts"], other["rollouts"], strict=True):
            assert ours["right"] == theirs["right"]
            assert ours["trajectory"]["messages"] == theirs["trajectory"]["messages"]
