"""What the files that turns.py reads must hold, in exactly these types; other keys are kept.

What is read has its keys in the order that stands here: as the stages write them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import NotRequired, Required, TypedDict

from common.files import BadFile, read_json, read_whole


class Message(TypedDict):
    role: str
    content: str


def _end_with_user(messages: list[Message]) -> list[Message]:
    if messages[-1]["role"] != "user":
        raise ValueError("expected a chat that ends with a user message")
    return messages


Part = Literal["chat", "king", "challenger", "assistant"]  # of a turn, each with its digest
Messages = Annotated[list[Message], Field(min_length=1), AfterValidator(_end_with_user)]


class Prompt(TypedDict):
    instance_id: str
    messages: Messages
    assistant: str | None


class Answer(TypedDict):
    instance_id: str
    king: str | None  # older versions wrote null for "not yet"
    challenger: str | None
    assistant: str | None
    messages: Messages
    meta: NotRequired[Any]  # what is no object counts as {}


class Verdict(TypedDict):
    key: str
    judge: str
    look: NotRequired[int]  # 3: the reader's test, a finding
    order: Literal["challenger-first", "challenger-second"]
    calls: dict[str, Annotated[int, Field(ge=0, le=2)] | str] | None  # None: it cannot be read
    reason: str
    usage: dict[str, int] | None
    usage_all_tries: NotRequired[dict[str, int] | None]
    cost_usd: FiniteFloat | None


class Score(TypedDict):
    stem: str
    instance_id: str
    repo: str
    mode: Literal[1, 2]
    points: int | None
    max_points: int | None
    score: NotRequired[FiniteFloat | None]
    metrics: dict[str, FiniteFloat | None] | None
    by_judge: dict[str, FiniteFloat | None]
    parsed: bool
    status: Literal["parsed", "parse-fail", "unfinished", "stopped"]  # the last: older versions
    reason: str | None
    held_back: NotRequired[str | None]
    sha: Annotated[dict[Part, str], Field(min_length=4)]
    counted: NotRequired[list[str]]  # keys of verdicts
    verdicts: list[Verdict]
    on_other_metrics: NotRequired[list[Verdict]]  # than today's
    counted_confirmed: NotRequired[list[str]]
    points_confirmed: NotRequired[int | None]
    max_points_confirmed: NotRequired[int | None]
    score_confirmed: NotRequired[FiniteFloat | None]
    reader: NotRequired[dict[Part, str] | None]  # by side, what was quoted


# Of a part of the duel: a judge, the panel without one, the second look, the panel's agreement.
_NUMBERS = """score parse_rate position_consistency pull equal_share mean_score value turns read
mean_first mean_confirmed kept kept_mean kept_again"""
_FIGURES = {**dict.fromkeys(_NUMBERS.split(), int | float | None), "accepted": bool | None}
Figures = TypedDict("Figures", {**_FIGURES, "named": dict[Part, int]}, total=False)


class Duel(TypedDict, total=False):
    mode: Required[int]
    accepted: Required[bool | None]
    why: Required[str | None]
    turns: Required[dict[str, int] | None]
    instances: int | None
    alpha: float | None
    mean_score: float | None
    interval: list[float] | None
    metrics: dict[str, float | None] | None
    judges: dict[str, Figures] | None
    leave_one_out: dict[str, Figures] | None
    agreement: Figures | None
    kept_again: Figures | None
    second_look: Figures | None
    config: dict[str, Any] | None


def read_as(form: TypeAdapter, path: Path) -> Any:
    """Return the JSON document at `path`; BadFile says what first is not as `form` has it."""
    try:
        return form.validate_json(read_whole(path), strict=True, extra="allow")
    except ValidationError:
        document = read_json(path)  # it reads lone surrogates too, and names what is torn
    try:
        return form.validate_python(document, strict=True, extra="allow")
    except ValidationError as error:
        wrong = error.errors()[0]
        words = [f"record {at + 1}" if type(at) is int else f"key {at!r}" for at in wrong["loc"]]
        words.append("missing" if wrong["type"] == "missing" else wrong["msg"])
        raise BadFile(path, ": ".join(words).replace("Value error, ", "")) from None
