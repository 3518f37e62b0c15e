"""The layout of a judge's prompt: chat and texts between marks that none of them can forge."""

from __future__ import annotations

from common.files import digest


def marked_prompt(messages: list[dict], sections: list[tuple[str, str]], closing: str) -> str:
    """Return the chat, then each (name, text) of `sections` as it is kept, then `closing`.

    Up to the first section the prompt depends on the chat alone, whatever follows: a prefix cache
    serves it to both orders, both modes and all judges.
    """
    code = _mark(messages, [text for _, text in sections])
    parts = []
    for number, message in enumerate(messages, 1):
        parts += [f"=== {code} CHAT MESSAGE {number}: {message['role']} ===", message["content"]]
    parts += [f"=== {code} END OF CHAT ===", ""]
    for name, text in sections:
        parts += [f"=== {code} {name} ===", text, f"=== {code} END OF {name} ===", ""]
    return "\n".join([*parts, closing])


def _mark(messages: list[dict], others: list[str]) -> str:
    """Return a code that none of the texts holds, made from the chat alone where that can be."""
    texts = []
    for message in messages:
        texts += [message["role"], message["content"]]
    code = digest(*texts)[:12]
    while any(code in text for text in (*texts, *others)):
        code = digest(code)[:12]
    return code
