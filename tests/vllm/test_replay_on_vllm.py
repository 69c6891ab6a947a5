"""Replayed episodes that vLLM writes are those that the embedded engine writes, token by token."""

import pytest
import torch
from on_vllm import SCENES, VIDEOS, first_turn, metric, on_vllm, play, samples, tokens, written
from shared import MakeAgent

from visreplay.agent.vllm.process import EngineProcess
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import ConfigError, Method, ReplaySession

METHODS = [Method.TOKEN, Method.STATE, Method.FEATURE, Method.NONE]


@pytest.mark.parametrize("task", [SCENES, VIDEOS])
@pytest.mark.parametrize("method", METHODS)
def test_episodes_are_the_same(
    make_agent: MakeAgent, writer: VllmWriter, method: Method, task: str
) -> None:
    chosen = samples(task, 4)
    ours = play(make_agent(method), chosen)
    theirs = play(on_vllm(make_agent(method), writer), chosen)
    assert tokens(theirs) == tokens(ours)


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
def test_many_at_once_share_a_small_cache(
    make_agent: MakeAgent, writer: VllmWriter, engine: EngineProcess, method: Method
) -> None:
    """The engine has room for few of them: it preempts turns, and loads conversations again."""
    chosen = samples(SCENES, 10)
    before = metric(engine, "num_preemptions_total")
    ours = play(make_agent(method), chosen, more=3)
    theirs = play(on_vllm(make_agent(method), writer), chosen, more=3)
    assert tokens(theirs) == tokens(ours)
    assert metric(engine, "num_preemptions_total") > before


def test_the_reference_alignment_rewrites_what_was_generated(
    make_agent: MakeAgent, writer: VllmWriter
) -> None:
    """Blocks that the engine kept of the first turn must not serve the second."""
    chosen = samples(SCENES, 6)
    ours = play(make_agent(Method.STATE, alignment="reference"), chosen, more=2)
    agent = on_vllm(make_agent(Method.STATE, alignment="reference"), writer)
    assert tokens(play(agent, chosen, more=2)) == tokens(ours)


def test_the_edit_of_the_last_token_counts(make_agent: MakeAgent, writer: VllmWriter) -> None:
    """State replay may edit the text before the turn, down to its last token."""
    changes = {"side": "all", "threshold": "absolute", "tau": 1.0}
    chosen = samples(SCENES, 4)
    ours = play(make_agent(Method.STATE, **changes), chosen, more=1)
    theirs = play(on_vllm(make_agent(Method.STATE, **changes), writer), chosen, more=1)
    assert tokens(theirs) == tokens(ours)


def test_what_is_handed_over_is_what_decodes(
    make_agent: MakeAgent, writer: VllmWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary: values that are wrong at visual tokens change what is written."""
    chosen = samples(SCENES, 6)
    export = ReplaySession.export

    def damaged(session: ReplaySession, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys_LTHD, values_LTHD = export(session, start, stop)
        for block in session.blocks:
            values_LTHD[:, max(0, block.start - start) : max(0, block.stop - start)] *= -3
        return keys_LTHD, values_LTHD

    ours = play(make_agent(Method.STATE), chosen)
    monkeypatch.setattr(ReplaySession, "export", damaged)
    theirs = play(on_vllm(make_agent(Method.STATE), writer), chosen)
    same = [one == other for one, other in zip(tokens(theirs), tokens(ours), strict=True)]
    assert not any(same)


def test_log_probabilities_are_the_same(make_agent: MakeAgent, writer: VllmWriter) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    _, theirs = written(writer, session, logprobs=3)
    ((_, ours),) = session.sample_many([0], max_new_tokens=24, temperature=0.0, logprobs=3)
    assert theirs.token_ids == ours.token_ids
    for one, other in zip(theirs.logprobs, ours.logprobs, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [each for each, _ in one.top] == [each for each, _ in other.top]


def test_a_second_turn_hands_over_only_what_is_new(
    make_agent: MakeAgent, writer: VllmWriter
) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    asked = session.length
    session, turn = written(writer, session, max_new_tokens=96)
    assert turn.finish_reason == "stop"
    session.append("And now?")
    with writer.exports.lease(session) as lease:
        assert len(lease.handle["files"]) == 2
        assert lease.tokens == session.length - asked


def test_a_turn_that_was_cut_off_shares_nothing_with_one_that_ended(
    make_agent: MakeAgent, writer: VllmWriter
) -> None:
    """Their tokens may be the same, but the end was generated in one, and replayed in the other."""
    question = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    ended, turn = written(writer, question, max_new_tokens=96)
    cut, _ = written(writer, question, max_new_tokens=len(turn.token_ids) - 1)
    for session in (ended, cut):
        session.append("And now?")
    assert ended.token_ids == cut.token_ids
    assert ended.lineage != cut.lineage
    for session in (ended, cut):
        _, theirs = written(writer, session)
        assert theirs.token_ids == session.fork().generate(max_new_tokens=24).token_ids


def test_a_stop_string_ends_the_turn_and_stays_in_it(
    make_agent: MakeAgent, writer: VllmWriter
) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    whole = session.fork().generate(max_new_tokens=24).text
    stop = whole[5:9]
    _, theirs = written(writer, session, stop_strings=(stop,))
    ours = session.fork().generate(max_new_tokens=24, stop_strings=(stop,))
    assert (theirs.token_ids, theirs.finish_reason) == (ours.token_ids, "stop")


def test_a_seed_repeats_a_sampled_turn(make_agent: MakeAgent, writer: VllmWriter) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    hot = {"temperature": 2.0, "max_new_tokens": 24}
    texts = [written(writer, session, seed=seed, **hot)[1].text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_penalty_counts_as_in_the_embedded_engine(
    make_agent: MakeAgent, writer: VllmWriter
) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    _, theirs = written(writer, session, repetition_penalty=6.0)
    ours = session.fork().generate(max_new_tokens=24, repetition_penalty=6.0)
    assert theirs.token_ids == ours.token_ids
    assert ours.token_ids != session.fork().generate(max_new_tokens=24).token_ids


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_vllm_would_change_is_refused(
    make_agent: MakeAgent, writer: VllmWriter, temperature: float
) -> None:
    session = first_turn(make_agent(Method.NONE), samples(SCENES, 1)[0])
    with pytest.raises(ConfigError, match=rf"{temperature}, but vLLM takes 0, or 0\.01 to 2\.0"):
        written(writer, session, temperature=temperature)


def test_lost_files_are_exported_again(make_agent: MakeAgent, writer: VllmWriter) -> None:
    session = first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])
    with writer.exports.lease(session) as lease:
        for name in lease.handle["files"]:
            (writer.exports.folder / name).unlink()
    _, theirs = written(writer, session)
    assert theirs.token_ids == session.fork().generate(max_new_tokens=24).token_ids
