"""A dataset's chat in the pipeline's own form: texts, and each command in one fenced block.

A chat with calls of tools becomes text: a call of a bash tool is what the agent said and the block,
a tool's output a user message. Thinking under a key or in a part of its own is left out.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from common.audit.protocol import bash_blocks, fence_of
from common.files import clean_text

BASH_TOOLS = {
    "bash", "execute_bash", "run_bash", "shell", "run_shell", "terminal", "run_command",
    "execute_command",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")
LEFT_OUT = re.compile("thinking|reasoning|tool_use")  # parts of these types
TEXT_FORM = (
    "Write each call of the bash tool as text: your reasoning, then exactly one ```{} block that "
    "holds one command."
)


class Chat(NamedTuple):
    """Messages of role and content (None where the dataset has none), and what they were."""

    messages: list[dict]
    form: str  # "text" or "tools"
    fence: str
    unfit: dict[int, str]  # of tools: the assistant messages that are no turn, and why


def read_chat(value: object) -> Chat | None:
    """Return a row's chat, a list or JSON text; None when it is malformed."""
    try:
        items = json.loads(value) if isinstance(value, (str, bytes)) else value
        calls = [calls_of(item) for item in items]
        messages = []
        for item in items:
            role = clean_text(item["role"]).replace("developer", "system")
            messages.append({"role": role, "content": text_of(item.get("content"))})
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        return None
    outputs = [place for place, item in enumerate(items) if is_output(item)]
    if not outputs and not any(calls):
        return Chat(messages, "text", fence_of(messages), {})
    for place in outputs:
        text = messages[place]["content"] or ""
        messages[place] = {"role": "user", "content": f"Observation: {text}"}
    fence = tell_form(messages)
    unfit = {}
    for message, made, place in zip(messages, calls, range(len(messages))):
        if message["role"] == "assistant":
            message["content"] = with_calls(message["content"] or "", made, fence)
            unfit[place] = call_problem(made, message["content"], fence)
    return Chat(messages, "tools", fence, {place: why for place, why in unfit.items() if why})


def text_of(content: object) -> str | None:
    """Return a content as text; of typed parts those of text, and outputs of tools.

    Raises TypeError for another part, such as an image: without it the chat is not what it was.
    """
    if content is None or isinstance(content, str):
        return content and clean_text(content)
    texts = []
    for part in content:
        if part["type"] == "tool_result":
            texts.append(text_of(part.get("content")) or "")
        elif part["type"] in TEXT_PARTS:
            texts.append(clean_text(part["text"]))
        elif not LEFT_OUT.search(part["type"]):
            raise TypeError(part["type"])
    return "\n".join(texts)


def is_output(item: dict) -> bool:
    """Tell whether a message is a tool's output: its role says so, or its parts."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    of_tool = any(part["type"] == "tool_result" for part in parts)
    return item["role"] in ("tool", "function") or of_tool


def calls_of(item: dict) -> list[tuple[str, object]]:
    """Return (name, arguments) of the tools that a message calls."""
    calls = item.get("tool_calls") or item.get("function_call") or []
    if isinstance(calls, str):
        calls = json.loads(calls) or []
    if isinstance(calls, dict):  # a function_call
        calls = [calls]
    found = [call.get("function") or call for call in calls]
    content = item.get("content")
    for part in content if isinstance(content, list) else []:
        if part["type"] == "tool_use":
            found.append({"name": part["name"], "arguments": part["input"]})
    return [(clean_text(call["name"]), read_arguments(call.get("arguments"))) for call in found]


def read_arguments(value: object) -> object:
    """Return a call's arguments, which may be JSON text; those that are null count as absent."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, dict):
        return {name: argument for name, argument in value.items() if argument is not None}
    return value


def command_of(call: tuple[str, object]) -> str | None:
    """Return the command of a bash tool's call, whose one argument it is."""
    name, arguments = call
    if name.lower() not in BASH_TOOLS or not isinstance(arguments, dict):
        return None
    command = arguments.get("command")
    is_plain = isinstance(command, str) and len(arguments) == 1 and command.strip()
    return clean_text(command).strip() if is_plain else None


def with_calls(said: str, calls: list, fence: str) -> str:
    """Return what an agent said and called as one text."""
    pieces = [said.rstrip()] if said.strip() else []
    for call in calls:
        command = command_of(call)
        if command:
            pieces.append(f"```{fence}\n{command}\n```")
        else:
            arguments = clean_text(json.dumps(call[1], ensure_ascii=False, default=str))
            pieces.append(f"Tool call: {call[0]} {arguments}")
    return "\n\n".join(pieces)


def call_problem(calls: list, text: str, fence: str) -> str | None:
    """Return why a message is no turn of one command; None when it is."""
    if not calls:
        return "its own turn calls no tool"
    if len(calls) > 1:
        return "its own turn calls several tools"
    command = command_of(calls[0])
    if command is None:
        return "its own turn calls another tool than bash with one command"
    if bash_blocks(text, fence) != [command]:
        return "its own turn has a code fence in the command or beside it"
    return None


def tell_form(messages: list[dict]) -> str:
    """Return the chat's fence; where no sentence of its system message names it, add one that does.

    A chat without a system message is told at the head of its first message, never the agent's.
    """
    first = next((message for message in messages if message["role"] != "assistant"), messages[0])
    text = first["content"] or ""
    fence = fence_of([first])
    if first["role"] != "system":
        first["content"] = f"{TEXT_FORM.format('bash')}\n\n{text}"
    elif not re.search(rf"```{fence}[ \t]*\S", text):  # a block alone is an example of something
        first["content"] = f"{text.rstrip()}\n\n{TEXT_FORM.format(fence)}".lstrip()
    return fence_of([first])
