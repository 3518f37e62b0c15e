"""Chats of trajectories in the pipeline's form: texts, each command a fenced block.

A chat with calls of tools becomes text: a call of a bash tool is what the agent said and the block,
a tool's output a user message. Thinking under a key or in a part of its own is left out.
"""

import json
import re
from contextlib import suppress
from typing import NamedTuple

from common.audit.protocol import bash_blocks, fence_of
from common.files import clean_text

ROW_COLUMNS = ("instance_id", "repo", "messages")
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
    messages = []
    calls = []  # of each message, see calls_of
    form = "text"
    try:
        for item in json.loads(value) if isinstance(value, (str, bytes)) else value:
            content = item.get("content")
            parts = content if isinstance(content, list) else []
            role = clean_text(item["role"]).replace("developer", "system")
            text = text_of(content)
            if role in ("tool", "function") or any(part["type"] == "tool_result" for part in parts):
                form = "tools"
                role = "user"
                text = f"Observation: {text or ''}"
            messages.append({"role": role, "content": text})
            calls.append(calls_of(item, parts))
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        return None
    if form == "text" and not any(calls):
        return Chat(messages, "text", fence_of(messages), {})
    # Their form is told at the end of a system message that names no fence in a sentence (a block
    # alone is an example of something), or at the head of the first message, never the agent's.
    told = next((message for message in messages if message["role"] != "assistant"), messages[0])
    text = told["content"] or ""
    fence = fence_of([told]) if told["role"] == "system" else "bash"
    if told["role"] != "system":
        told["content"] = f"{TEXT_FORM.format(fence)}\n\n{text}"
    elif not re.search(rf"```{fence}[ \t]*\S", text):
        told["content"] = f"{text.rstrip()}\n\n{TEXT_FORM.format(fence)}".lstrip()
    unfit = {}
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            message["content"], problem = with_calls(message["content"] or "", calls[place], fence)
            if problem:
                unfit[place] = f"its own turn {problem}"
    return Chat(messages, "tools", fence, unfit)


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


def calls_of(item: dict, parts: list[dict]) -> list[tuple[str, object]]:
    """Return (name, arguments) of the tools that a message calls; null arguments are absent."""
    calls = item.get("tool_calls") or item.get("function_call") or []
    if isinstance(calls, str):
        calls = json.loads(calls) or []
    if isinstance(calls, dict):  # a function_call
        calls = [calls]
    found = [call.get("function") or call for call in calls]
    found += [{**part, "arguments": part["input"]} for part in parts if part["type"] == "tool_use"]
    for place, function in enumerate(found):
        arguments = function.get("arguments")
        with suppress(ValueError, RecursionError):  # text that is no JSON stays as it is
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if isinstance(arguments, dict):
            arguments = {key: value for key, value in arguments.items() if value is not None}
        found[place] = (clean_text(function["name"]), arguments)
    return found


def with_calls(said: str, calls: list, fence: str) -> tuple[str, str | None]:
    """Return what an agent said and called as one text, and why it is no turn of one command."""
    pieces = [said.rstrip()] if said.strip() else []
    commands = []
    for name, arguments in calls:
        command = None
        if name.lower() in BASH_TOOLS and isinstance(arguments, dict) and len(arguments) == 1:
            command = arguments.get("command")
        if isinstance(command, str) and command.strip():
            commands.append(clean_text(command).strip())
            pieces.append(f"```{fence}\n{commands[-1]}\n```")
        else:
            arguments = clean_text(json.dumps(arguments, ensure_ascii=False, default=str))
            pieces.append(f"Tool call: {name} {arguments}")
    text = "\n\n".join(pieces)
    problem = None
    if len(calls) != 1:
        problem = "calls several tools" if calls else "calls no tool"
    elif not commands:
        problem = "calls another tool than bash with one command"
    elif bash_blocks(text, fence) != commands:
        problem = "has a code fence in the command or beside it"
    return text, problem
