"""Calls that are generated, wrapped and damaged are never lost: `make fuzz` tries more."""

import json
from typing import Any

import json5
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st

from visreplay.agent.protocols import PROTOCOLS, get_protocol, load_recipe
from visreplay.agent.protocols.call_syntax import MAX_REREAD, TOOL_CALL, _Scan
from visreplay.agent.protocols.tolerant_json import tolerate
from visreplay.tools import ImageStore, TokenGrid

EXAMPLES = fuzzing(100, 20_000)
NAMED = [name for name, protocol in PROTOCOLS.items() if protocol.named_calls]
READERS = {name: get_protocol(name, TokenGrid(), ImageStore()) for name in PROTOCOLS}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9999) | st.floats(0, 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["bbox_2d", "label", "times", "text", ""]),
    VALUES | st.sampled_from(["<tool_call>", "</tool_call>", "<answer>B</answer>", "```", "{}"]),
    max_size=3,
)
CALLS = st.fixed_dictionaries({"name": st.sampled_from(["zoom", "x"]), "arguments": ARGUMENTS})
PROSE = st.sampled_from(
    [
        "",
        "\n",
        "I look. ",
        "The <tool_call> tag: ",
        "It's {x}. ",
        "By <tool_call></tool_call> ",
        "a } ",
    ]
)
WRAPS = st.sampled_from(
    [
        "<tool_call>{}</tool_call>",
        "<tool_call>\n{}\n</tool_call>",
        "<tool_call>{}",
        "{}</tool_call>",
        "{}",
        "```json\n{}\n```",
        "<tool_call>\n```\n{}\n```\n</tool_call>",
    ]
)
THOUGHTS = st.sampled_from(
    ["", "<think>a</think>", "<think>By <tool_call>?</think>\n", "<think>a "]
)


def spelled(call: dict[str, Any], form: int) -> str:
    """A call as JSON, in one of the forms that models give its arguments."""
    arguments = call["arguments"]
    for _ in range(form):
        arguments = json.dumps(arguments)
    return json.dumps({**call, "arguments": arguments}, ensure_ascii=bool(form))


def wrapped(call: str, wrap: str) -> str:
    return wrap.replace("{}", call)


@given(THOUGHTS, PROSE, CALLS, WRAPS, st.integers(0, 2), st.sampled_from(NAMED))
@EXAMPLES
def test_a_whole_call_is_run(
    thought: str, prose: str, call: dict[str, Any], wrap: str, form: int, name: str
) -> None:
    turn = READERS[name].read(thought + prose + wrapped(spelled(call, form), wrap))
    assert turn.calls == (call,)


@given(THOUGHTS, CALLS, WRAPS, st.data(), st.sampled_from(NAMED))
@EXAMPLES
def test_a_damaged_call_is_run_or_reported(
    thought: str, call: dict[str, Any], wrap: str, data: st.DataObject, name: str
) -> None:
    """Characters of the object are lost, doubled or replaced; its keys are still there."""
    text = spelled(call, 0)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(1, len(text) - 1))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", '"', "'", "{", "}", ",", "\\", "x"]))
            + (text[at + data.draw(st.integers(0, 1)) :])
        )
    written = thought + wrapped(text, wrap)
    turn = READERS[name].read(written)
    assert (turn.calls != ()) + (turn.error is not None) + (turn.answer is not None) <= 1
    # Where a damaged call ends is unknown, so an answer's tag within it is an answer after it.
    whole = '{"name"' in text and '"arguments":' in text and "<answer>" not in text
    if whole and turn.answer is not None:
        # What is left is an object of another kind.
        assert not TOOL_CALL.resembles(json.loads(text))


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<grounding>", "</grounding>"),
        *("<answer>", "</answer>", "\\boxed{", "{", "}", "[", "]", '"', "'", "\\", ",", ":", "```"),
        *("\n```\n", "`", '{"name": "a", "arguments": ', '{"name": "a", "arguments": {}}', " "),
        *(
            "{'name': 'a', arguments: {},}",
            '{"bbox_2d": [0, 0, 1, 1]}',
            "/*",
            "*/",
            "//",
            "a",
            "\n",
        ),
        *("\n", '{"name":', '{"arguments":', "null", "1", "\ud800", "\x00", "é"),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from([*PROTOCOLS]), st.booleans())
@EXAMPLES
def test_any_text_is_read(written: str, name: str, tolerant: bool) -> None:
    reader = READERS[name]
    turn = reader.read(written)
    assert (turn.calls != ()) + (turn.error is not None) + (turn.answer is not None) <= 1
    start = reader.call_syntax.may_begin(written)
    assert turn.calls_at is None or start <= turn.calls_at <= len(written)
    found = reader.call_syntax.find(written, tolerant=tolerant).found
    places = [place for each in found for place in (each.start, each.end)]
    assert places == sorted(places)
    assert all((each.call is None) == bool(each.error) for each in found)


@given(st.lists(PIECES, min_size=1, max_size=3).map("".join), st.booleans())
@EXAMPLES
def test_what_is_read_in_vain_is_bounded(piece: str, tolerant: bool) -> None:
    """By construction, not by the clock: a turn of one piece over and over."""
    text = piece * (3000 // len(piece))
    scan = _Scan(TOOL_CALL, text, tolerant)
    found = sum(1 for _ in scan.calls())
    assert scan.in_vain <= MAX_REREAD + len(text)
    assert found <= len(text)


JSON5 = st.recursive(
    st.sampled_from(
        [
            *("'a'", '"b"', "1", "+1", ".5", "0x1f", "5.", "-3", "true", "null", r"'\''", "'\"'"),
            *(r'"\x41"', "'\\\n'", r"'\u0041'", "1e3", "-0x10", '"it\'s"', "'//'", '"/*"', "'{,}'"),
        ]
    ),
    lambda inner: (
        st.builds(
            lambda items, comma: f"[{','.join(items)}{comma if items else ''}]",
            st.lists(inner, max_size=3),
            st.sampled_from(["", ",", " , ", "/* , */", ", // ]\n"]),
        )
        | st.builds(
            lambda items, comma: f"{{{','.join(items)}{comma if items else ''}}}",
            st.lists(
                st.tuples(st.sampled_from(["a", "'b'", '"c" ', "$d", "_e1 ", "ü"]), inner).map(
                    ":".join
                ),
                max_size=3,
            ),
            st.sampled_from(["", ",", "\n,\n"]),
        )
    ),
    max_leaves=8,
)


@given(JSON5)
@EXAMPLES
def test_json5_is_read_as_the_library_reads_it(text: str) -> None:
    assert json.loads(tolerate(text)) == json5.loads(text)


@given(st.lists(PIECES | JSON5, max_size=8).map("".join))
@EXAMPLES
def test_what_is_no_json5_does_not_become_json(text: str) -> None:
    try:
        value = json.loads(tolerate(text))
    except ValueError:
        return
    assert value == json5.loads(text)


def test_qwen3_vl_claims_json5() -> None:
    assert [name for name in PROTOCOLS if load_recipe(name).tolerant_json] == ["qwen3-vl"]
