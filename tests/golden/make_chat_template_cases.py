"""Renders templates in the style of published models with Jinja2.

Usage: make_chat_template_cases.py OUT.jsonl   (needs jinja2)
Environment settings are those of transformers: trim_blocks, lstrip_blocks,
loop controls, a tojson without HTML escapes, raise_exception, strftime_now.
Each row: template, messages, tools, documents, kwargs, add_generation_prompt,
continue_final -> prompt, or error (text of raise_exception, else null).
"""
import datetime
import json
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1_722_000_000  # 26 Jul 2024, 13:20 UTC
TAG = "CONTINUE_FINAL_MESSAGE_TAG "

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\\n\\n' }}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|start|>ipython<|end|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

INST = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

MACRO = """{%- macro field(name, value, sep=': ') -%}
{{ name }}{{ sep }}{{ value }}
{%- endmacro -%}
{%- macro turn(m) -%}
<{{ m.role | upper }}>{{ field('text', m.content | default('-')) }}
{%- endmacro -%}
{% for d in documents or [] %}
doc {{ loop.index }}: {{ d.title }} {{ d | tojson }}
{% endfor %}
{% for m in messages if m.role != 'system' %}
{{ turn(m) }}{% if not loop.last %},{% endif %}

{% else %}
nothing
{% endfor %}
{# a comment #}
effort={{ reasoning_effort | default('none') }} {{ [1, 2.5, true, none, 'é"\\n'] | tojson }}
{{ {'b': 1, 'a': [], 'c': {}} | tojson(indent=2) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}
{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{{ '-' * 5 }} {{ 'x' if add_generation_prompt else 'y' }} {{ messages | map(attribute='role') | join('|') }}
"""


def render(template, row):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None,
               sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent,
                          separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(
        NOW, datetime.timezone.utc).strftime(f)
    messages = row["messages"]
    if row.get("continue_final"):
        messages = messages[:-1] + [
            {**messages[-1], "content": messages[-1]["content"] + TAG}]
    text = env.from_string(template).render(
        messages=messages, tools=row.get("tools"),
        documents=row.get("documents"), bos_token="<s>", eos_token="</s>",
        add_generation_prompt=row.get("add_generation_prompt", False),
        **row.get("kwargs", {}))
    if row.get("continue_final"):
        at = text.rindex(TAG.strip())
        text = text[:at] if text[at:].startswith(TAG) else text[:at].rstrip()
    return text


def S(t): return {"role": "system", "content": t}
def U(t): return {"role": "user", "content": t}
def A(t): return {"role": "assistant", "content": t}
def T(t): return {"role": "tool", "content": t}


TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Says \"sun\" & <rain>, é 漢",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"},
        "days": {"type": "number", "minimum": 1.0, "maximum": 14.5,
                 "step": 1e-7, "huge": 1e16, "big": 123456789.125}}}}}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {
    "name": "weather", "arguments": {"city": "Zürich", "days": 2}}}]}


def inputs():
    plain = [U("Hi"), A("Hello"), U("  Bye  ")]
    g = {"add_generation_prompt": True}
    yield dict(messages=[U("Hi")], **g)
    yield dict(messages=plain, **g)
    yield dict(messages=plain)
    yield dict(messages=[S(" Be brief. ")] + plain, **g)
    yield dict(messages=[S("s"), U("q")], tools=[TOOL], **g)
    yield dict(messages=[U("q"), CALL, T("21 C"), A("It is 21 C")],
               tools=[TOOL, TOOL])
    yield dict(messages=[U("q"), T("a"), T("b"), U("r")], **g)
    yield dict(messages=[U("q"), A("<think>\nhm\n</think>\n\nyes"), U("r")],
               **g)
    yield dict(messages=[U("q"), A("<think>\nhm\n</think>\n\nyes")])
    yield dict(messages=[U("q"), A("The answer is ")], continue_final=True)
    yield dict(messages=[U("q"), A("The answer")], continue_final=True)
    yield dict(messages=[U("q")], kwargs={"enable_thinking": False,
                                          "reasoning_effort": "low",
                                          "date_string": "1 Jan 2030"}, **g)
    yield dict(messages=[U("q")], documents=[
        {"title": "One", "text": "a"}, {"title": "Two", "n": 1.0}], **g)
    yield dict(messages=[A("first"), U("q")], **g)
    yield dict(messages=[S("only")])


def main():
    with open(sys.argv[1], "w", encoding="utf-8", newline="\n") as f:
        for name, template in (("llama3", LLAMA3), ("chatml", CHATML),
                               ("inst", INST), ("macro", MACRO)):
            f.write(json.dumps({"name": name, "template": template}) + "\n")
            for row in inputs():
                try:
                    row["prompt"] = render(template, row)
                except jinja2.exceptions.UndefinedError:
                    continue  # the engine is laxer with undefined values
                except jinja2.exceptions.TemplateError as e:
                    row["error"] = str(e)
                except TypeError:
                    continue
                f.write(json.dumps(row, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
