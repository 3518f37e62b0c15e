"""What the local server can be told to do wrong, and the reply that it spoils."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# What can be ordered, by name. Provider texts are the ones that Chutes is known to send.
FAULTS = {
    "400-context": "400, the prompt is longer than the model's context",
    "400-param": "400, a sampling value that the model refuses",
    "401": "401, unknown key",
    "402": "402, quota spent; the detail is an object",
    "403": "403, not allowed",
    "404": "404, model not found",
    "408": "408 in OpenAI's error form",
    "409": "409 in OpenAI's error form",
    "429": "429 at maximum capacity, no Retry-After",
    "429-retry-after": "429 with Retry-After: 1",
    "429-spam": "429, the same prompt sent too often",
    "500": "500, no target left",
    "502-html": "502 with a page of HTML",
    "503": "503, no instance available",
    "524": "524 with a page of HTML, as a proxy's timeout",
    "200-html": "200 with a page of HTML",
    "200-error": '200 with {"detail": ...} and choices null',
    "no-choices": "200, choices missing",
    "empty-choices": "200, choices []",
    "error-line": 'half a stream, then a line {"error": ...} without `data:`, then a clean end',
    "error-event": 'half a stream, then data: {"error": ...}, then a clean end',
    "cut-stream": "half the body, then the connection is closed",
    "no-finish": "the whole text and a clean end, but never a finish_reason",
    "empty-stream": "200 and an empty stream, then a closed socket; without a stream 400-context",
    "stall": "half the body, then silence with the socket open, for stall_s",
    "silent": "no byte at all for stall_s",
    "comments": "keep-alive comments without end",
    "reset": "TCP reset before any byte",
    "length-empty": "content null, finish_reason length, unless max_tokens >= length_enough",
    "length-cut": "half the text, finish_reason length",
    "empty": "no text, finish_reason stop",
    "tool-tokens": "Kimi's raw tool-call tokens at the start",
    "tool-tokens-late": "Kimi's raw tool-call tokens after the text",
    "think": "<think>...</think> inline before the text",
    "think-unopened": "the same without the opening tag",
    "reasoning": "reasoning in the field `reasoning`, the text in content",
    "verdict-in-reasoning": "the text in the reasoning, only empty words in content",
    "one-at-a-time": "the stream ends as soon as the next request comes, as llama.cpp's",
    "content-filter": "half the text, finish_reason content_filter",
    "not-stream": "one JSON body though a stream was asked for",
    "crlf": "a sound stream with \\r\\n line ends, cut inside UTF-8 characters across TCP writes",
}

_HTML = "<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"
_TOO_LONG = (
    "Invalid request: the input (140001 tokens) is longer "
    "than the model's context length (131072 tokens)."
)
_QUOTA_SPENT = {
    "message": "Quota exceeded and account balance is $0.0",
    "resets_at": "2026-10-01T00:00:00Z",
}
ERRORS = {  # name: (status, body, further headers)
    "400-context": (400, {"detail": _TOO_LONG}, {}),
    "400-param": (400, {"detail": "Invalid request: temperature must be 1 for this model"}, {}),
    "401": (401, {"detail": "Can't find a user with that api key in our db :("}, {}),
    "402": (402, {"detail": _QUOTA_SPENT}, {}),
    "403": (403, {"detail": "You are not allowed to use this chute."}, {}),
    "404": (404, {"detail": "model not found: {model}"}, {}),
    "408": (408, {"error": {"message": "Request timed out.", "type": "timeout", "code": None}}, {}),
    "409": (409, {"error": {"message": "Conflict.", "type": "conflict", "code": None}}, {}),
    "429": (429, {"detail": "Infrastructure is at maximum capacity, try again later"}, {}),
    "429-retry-after": (429, {"detail": "Too many requests"}, {"Retry-After": "1"}),
    "429-spam": (429, {"detail": "Stop spamming this prompt, please..."}, {}),
    "500": (500, {"detail": "exhausted all available targets to no avail"}, {}),
    "502-html": (502, _HTML, {}),
    "503": (503, {"detail": "No instances available (yet) for chute_id='demo'"}, {}),
    "524": (524, _HTML, {}),
    "200-html": (200, _HTML, {}),
    "200-error": (200, {"detail": "No result returned from upstream", "choices": None}, {}),
    "no-choices": (200, {"id": "chatcmpl-0", "object": "chat.completion"}, {}),
    "empty-choices": (200, {"id": "chatcmpl-0", "object": "chat.completion", "choices": []}, {}),
}
_TOOL_TOKENS = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.bash:0<|tool_call_argument_begin|>"
    '{"command": "ls"}<|tool_call_end|><|tool_calls_section_end|>'
)
_THOUGHTS = "Let me think. One could run\n```bash\nls -la\n```\nbut is that the best next step?"


def refusal(request: dict) -> tuple[int, dict | str, dict]:
    """Return status, body and further headers of a fault that is an error from the start."""
    status, body, headers = ERRORS[request["fault"]]
    if request["fault"] == "404":
        body = {"detail": f"model not found: {request['body'].get('model')}"}
    if request["fault"] == "401" and "authorization" not in request["headers"]:
        body = {"detail": "Authentication required."}
    return status, body, headers


@dataclass
class Reply:
    """What the model says."""

    content: str | None
    reasoning: str | None = None
    reasoning_field: str = "reasoning_content"
    finish_reason: str | None = "stop"
    chunks: int | None = None  # events of the stream; None: as many as the server's others
    usage: dict | None = None
    delay_s: float = 0.0  # on top of the server's latency
    model: str | None = None
    headers: dict = field(default_factory=dict)


def spoil(reply: Reply, fault: str | None, max_tokens: int, length_enough: int) -> Reply:
    """Return the reply as the content faults leave it."""
    text = reply.content or ""
    half = text[: len(text) // 2]
    if fault == "length-empty" and max_tokens < length_enough:
        return replace(reply, content=None, reasoning=_THOUGHTS, finish_reason="length")
    changes = {
        "length-cut": {"content": half, "finish_reason": "length"},
        "content-filter": {"content": half, "finish_reason": "content_filter"},
        "empty": {"content": ""},
        "tool-tokens": {"content": _TOOL_TOKENS + text},
        "tool-tokens-late": {"content": text + "\n" + _TOOL_TOKENS},
        "think": {"content": f"<think>\n{_THOUGHTS}\n</think>\n\n{text}"},
        "think-unopened": {"content": f"{_THOUGHTS}\n</think>\n\n{text}"},
        "reasoning": {"reasoning": _THOUGHTS, "reasoning_field": "reasoning"},
        "verdict-in-reasoning": {"content": "My answer is given above.", "reasoning": text},
        "no-finish": {"finish_reason": None},
    }
    return replace(reply, **changes.get(fault, {}))
