"""The solver at its limits: a log for each of the tasks in `solver_tasks.py`."""

import pytest
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessageTool
from inspect_samples import SAMPLES, inspect_eval

from visreplay.agent.inspect.solver import TRAJECTORY

Logs = dict[str, EvalLog]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Run all tasks by one command, without replay."""
    folder = tmp_path_factory.mktemp("solver")
    return inspect_eval(folder, "solver_tasks.py", "-M", "method=none")


def only(log: EvalLog) -> EvalSample:
    assert log.status == "success" and log.samples is not None, log.error
    (sample,) = log.samples
    return sample


def error_of(log: EvalLog) -> str:
    assert log.status == "error" and log.error is not None
    return log.error.message


def test_a_limit_of_steps_ends_an_episode_without_an_answer(logs: Logs) -> None:
    end = only(logs["steps"])
    assert (end.output.completion, end.output.stop_reason) == ("", "unknown")
    assert (end.output.metadata or {})["stop_reason"] == "max_steps"
    assert end.store[TRAJECTORY]["stop_reason"] == "max_steps"


def test_the_task_s_limit_of_tokens_holds_for_each_turn(logs: Logs) -> None:
    end = only(logs["turn_tokens"])
    assert (end.output.completion, end.output.stop_reason) == ("", "max_tokens")
    assert end.store[TRAJECTORY]["settings"]["sampling"]["max_new_tokens"] == 4
    assert end.output.usage is not None and end.output.usage.output_tokens == 4


def test_a_limit_of_messages_ends_a_sample_before_a_turn_is_wasted(logs: Logs) -> None:
    end = only(logs["three_messages"])
    assert end.limit is not None and end.limit.type == "message"
    assert [message.role for message in end.messages] == ["user", "assistant", "tool"]
    whole = only(logs["four_messages"])
    assert whole.limit is None and whole.output.completion == SAMPLES[0].answer


def test_a_limit_of_all_tokens_ends_a_sample(logs: Logs) -> None:
    end = only(logs["all_tokens"])
    assert end.limit is not None and end.limit.type == "token"
    assert end.model_usage["visreplay/embedded"].total_tokens > 100


def test_epochs_have_seeds_of_their_own(logs: Logs) -> None:
    assert logs["epochs"].samples is not None
    records = [sample.store[TRAJECTORY] for sample in logs["epochs"].samples]
    assert sorted(record["seed"] for record in records) == [5, 6, 7, 8]
    assert len({record["steps"][0]["text"] for record in records}) > 1


def test_every_call_has_a_message_with_its_result_or_its_error(logs: Logs) -> None:
    assert logs["epochs"].samples is not None
    for sample in logs["epochs"].samples:
        results = [each for each in sample.messages if isinstance(each, ChatMessageTool)]
        uses = [use for step in sample.store[TRAJECTORY]["steps"] for use in step["tool_calls"]]
        for message, use in zip(results, uses, strict=True):
            assert (message.error.message if message.error else None) == use["error"]
            assert (use["observation"] is not None) == (len(message.content) == 2)


def test_choices_become_options_in_the_words_of_the_recipe(logs: Logs) -> None:
    question = only(logs["choices"]).store[TRAJECTORY]["messages"][0]["content"][-1]["text"]
    assert question.startswith(f"{SAMPLES[0].question}\nA. red\nB. blue\n")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("two_messages", "the messages are system, user, but the agent plays a single question"),
        ("sent_video", "but an episode looks at a file: give its path"),
        ("another_model", "the model is mockllm/model, but the solver visreplay/agent plays with"),
        ("several_answers", "num_choices is 2, but a policy under replay has no such option"),
    ],
)
def test_what_cannot_be_played_is_an_error_with_a_way_out(
    logs: Logs, task: str, message: str
) -> None:
    assert message in error_of(logs[task])
