"""Chat templates of strangers: what they render, and where they are stopped."""

import json
from typing import Any

import pytest
from jinja2 import TemplateError
from real_checkpoints import DATA

from visreplay.replay_core.template_meter import MAX_NODES, MAX_SIZE, Meter
from visreplay.replay_core.template_sandbox import MAX_SOURCE, TemplateLimitError, render_template

BIG = "{% set x = 'x' * 1000000 %}"
RANGE = "{% set v = range(99999) %}"
TEXT = "{% set v = 'ab' * 1000000 %}"
TURN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}


def render(source: str, **variables: Any) -> str:
    return render_template(source, {"messages": [TURN], **variables})


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_real_templates_render_as_transformers_renders_them(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = json.loads((DATA / name / "chat_template.json").read_text("utf-8"))["chat_template"]
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        TURN,
        {"role": "assistant", "content": [{"type": "text", "text": "<think>a</think>\n{{ b }}"}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "'<é>'"}]},
    ]
    for messages in (turns, turns[1:2], turns[1:]):
        (theirs,), _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, eos_token="<|im_end|>"
        )
        ours = render_template(
            template,
            {"messages": messages, "add_generation_prompt": True, "eos_token": "<|im_end|>"},
        )
        assert ours == theirs


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0]['role'] | upper }} {{ messages | length }}", "USER 1"),
        ("{%- for m in messages if m.role == 'user' %}{{ loop.index0 % 2 }}{% endfor %}", "0"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}", "2"),
        ("{{ ['a', 'b'] | join(', ') }}{{ ', '.join(['c', 'd']) }}", "a, bc, d"),
        ("{{ 'abca' | replace('a', 'x') }}{{ 'abca'.replace('a', 'x', 1) }}", "xbcxxbca"),
        ("{{ {'a': [1, 'é<']} | tojson }}", '{"a": [1, "é<"]}'),
        ("{{ [1] | tojson(indent=2) }}{{ 'a\nb' | indent(1) }}", "[\n  1\n]a\n b"),
        ("{{ 'a' ~ 1 ~ none }}{{ [1, 'b'] }}", "a1None[1, 'b']"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}", "<a>"),
        ("{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}b{% endcall %}", "<b>"),
        ("{% set x %}a{% endset %}{{ x.strip().split(',')[::-1] }}", "['a']"),
        ("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}", "1False"),
        (
            "{{ '%02d:%s' % (7, 'a') }}{{ '%.2f' | format(0.5) }}{{ '{:>3}'.format('a') }}",
            "07:a0.50  a",
        ),
        (
            "{{ '%(a)s' | format(a='b') }}{{ '7'.zfill(3) }}{{ 'a'.ljust(2) }}{{ 'c'|center(3) }}",
            "b007a  c ",
        ),
        ("{{ '<{0.__class__}>'.format(1) }}", "<>"),
        ("{{ [{'a': {'b': [1]}}, {'a': {}}] | join(',', attribute='a.b.0') }}", "1,"),
        ("{% generation %}a{% endgeneration %}{% for a, b in [(1, 2)] %}{{ b }}{% endfor %}", "a2"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ 2 * 3 }}", "a16"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{{ messages | map(attribute='role') | list }}", "['user']"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ missing | default('d') }}{{ missing }}{{ messages[0].get('x', 'y') }}", "dy"),
        ("{{ strftime_now('%Y') | length }}{{ dict(a=1).a }}{{ range(3) | list }}", "41[0, 1, 2]"),
    ],
)
def test_what_chat_templates_use(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 ** 10 }}{{ (10 ** 999) ** 9999 }}",
        "{% set x = 'aa' %}" + "{% set x = x ~ x %}" * 60,
        "{% set x = 'aa' %}" + "{% set x = x + x %}" * 60,
        "{% set x = 'aa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
        "{% set x = [1] %}" + "{% set x = x + x %}" * 60,
        "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60,
        "{% set x = 1 %}" + "{% set x = {'a': x, 'b': x} %}" * 60,
        "{% set x = 1 %}" + "{% set x = dict(a=x, b=x) %}" * 60,
        "{{ ['a' * 1000000] * 1000 }}",
        "{{ (['a' * 1000000] * 1000) | string }}",
        "{{ (['a' * 1000000] * 1000) ~ '' }}",
        "{{ range(99999) | join('a' * 100000) }}",
        "{{ ('a' * 100000).join('b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
        "{{ range(99999) | map('replace', '1', 'a' * 10000) | join }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:>{}}'.format('a', 1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}{{ 'a'.ljust(1000000000) }}",
        BIG + "{{ ('%s' * 9999) % ((x,) * 9999) }}",
        BIG + "{{ ('{0}' * 9999).format(x) }}",
        BIG + "{{ ('%(a)s' * 9999) | format(a=x) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}{{ 'a'.zfill(1000000000) }}{{ '\t'.expandtabs(1000000000) }}",
        "{{ ('a' * 1000).translate({97: 'b' * 100000}) }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ range(9) | batch(1000000000, 1) | list }}",
        "{{ range(9) | slice(1000000000) | list }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ lipsum(n=100000000) }}",
        "{{ ('a ' * 5000000).split() }}",
        BIG + "{% for i in range(99999) %}{% if 'y' in x %}{% endif %}{% endfor %}",
        "{% set x = 'xx' %}" + "{% set x = x + x %}" * 21 + "{% for i in range(99999) %}"
        "{% if 'y' in x %}{% endif %}{% endfor %}",
        BIG + "{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
        "{{ ('\n' * 10000) | indent(10000) }}",
        BIG + "{% for i in range(99999) %}{{ x }}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + [n.x] %}"
        "{% endfor %}",
        "{% set n = namespace(x=3) %}{% for i in range(99999) %}{% set n.x = n.x * n.x %}"
        "{% endfor %}",
        "a" * (MAX_SOURCE + 1),
    ],
)
def test_a_template_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ self.x() }}{% block x %}{% endblock %}",
        "{{ cycler(1) }}",
        "{{ messages[0].__init__.__globals__ }}",
    ],
)
def test_a_template_calls_only_what_it_may(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_a_long_conversation_has_more_room() -> None:
    one, many = Meter({"messages": [TURN]}), Meter({"messages": [TURN] * 1000})
    assert MAX_NODES < one.nodes < many.nodes
    assert MAX_SIZE < one.size < many.size
    words = "word " * 100_000
    copies = "{% for m in messages %}{{ m.content | trim + m.content.strip() }}{% endfor %}"
    assert len(render_template(copies, {"messages": [{"content": words}] * 9})) == 18 * 499_999


def test_the_limits_of_one_rendering_are_not_those_of_the_next() -> None:
    for _ in range(3):
        assert len(render("{{ 'a' * 6000000 }}")) == 6_000_000
        with pytest.raises(TemplateLimitError, match="too"):
            render("{{ 'a' * 6000000 }}{{ 'b' * 6000000 }}")


@pytest.mark.parametrize(
    ("before", "expression"),
    [
        (RANGE, "v | max"),
        (RANGE, "v | selectattr('x') | list"),
        (RANGE, "v | select('none') | first"),
        (RANGE, "v | map('default') | max"),
        (RANGE, "v | batch(3) | max"),
        (RANGE, "'a' in v"),
        (RANGE, "'a' is in v"),
        (RANGE, "f(*v)"),
        (TEXT, "v | max"),
        (TEXT, "v | wordcount"),
        (TEXT, "v | title | length"),
        (TEXT, "v | int"),
        (TEXT, "v | trim"),
        (TEXT, "'ac' in v"),
        (TEXT, "'ac' is in v"),
        (TEXT, "['ac'] | select('in', v) | list"),
        (TEXT, "v is upper"),
        (TEXT, "v.count('ac')"),
        ("{% set v = [''] * 99999 %}", "v | join"),
        ("{% set v = [''] * 99999 %}", "''.join(v)"),
        ("{% set v = ['a'] * 99999 %}", "v | unique | list"),
        ("{% set v = ('a',) * 99999 %}", "'x'.startswith(v)"),
        ("{% set v = dict(range(99998) | map('string') | batch(2)) %}", "'x' in v.values()"),
        ("{% set v = '0.' * 400000 + '0' %}", "['a'] | map(attribute=v) | list"),
        ("{% set v = '0.' * 400000 + '0' %}", "['a'] | join(attribute=v)"),
    ],
)
def test_going_through_a_value_is_counted(before: str, expression: str) -> None:
    """By the meter, not by the clock: each would take hours."""
    macro = "{% macro f() %}{{ varargs | length }}{% endmacro %}"
    loops = "{% for i in range(99999) %}{% set a = EXPRESSION %}{% endfor %}"
    with pytest.raises(TemplateLimitError):
        render_template(macro + before + loops.replace("EXPRESSION", expression), {})


def test_a_chain_of_generators_is_counted() -> None:
    longer = "{% set v = v | select('integer') %}"
    with pytest.raises(TemplateLimitError, match="too long"):
        render_template(RANGE + longer * 100 + "{{ v | max }}", {})
    assert render_template("{% set v = range(9) %}" + longer * 9 + "{{ v | max }}", {}) == "8"


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(9999) %}{% for y in range(9999) if y < 0 %}{% endfor %}{% endfor %}",
        "{% set b = 'ab' * 1000000 %}{% for x in range(99999) if 'ac' in b %}{% endfor %}",
        "{% set n = namespace(x=3) %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x=3) %}{% for i in range(99999) %}{% set n.x = n.x - (0 - n.x) %}"
        "{% endfor %}",
        "{% for x in [1] %}" * 60 + "{% endfor %}" * 60,
    ],
    ids=["items left out", "searches", "sums", "differences", "nesting"],
)
def test_work_that_makes_nothing_is_counted_too(source: str) -> None:
    with pytest.raises(TemplateLimitError):
        render_template(source, {})


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
@pytest.mark.parametrize(("turns", "words"), [(1000, 300), (2, 1_000_000)])
def test_long_conversations_are_rendered(name: str, turns: int, words: int) -> None:
    template = json.loads((DATA / name / "chat_template.json").read_text("utf-8"))["chat_template"]
    parts = [{"type": "image"}, {"type": "text", "text": "word " * words}]
    messages = [{"role": ("user", "assistant")[n % 2], "content": parts} for n in range(turns)]
    text = render_template(template, {"messages": messages, "add_generation_prompt": True})
    assert text.count("word ") == turns * words
