"""What the files that pass between the stages must hold, in exactly these types.

Other keys of a file are not looked at. The readers are in turns.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, FiniteFloat, RootModel, ValidationError, model_validator

from common.files import BadFile, read_json

Order = Literal["challenger-first", "challenger-second"]


class Message(BaseModel, strict=True):
    role: str
    content: str


class Prompt(BaseModel, strict=True):
    instance_id: str
    messages: list[Message] = Field(min_length=1)
    assistant: str | None

    @model_validator(mode="after")
    def check_end(self) -> Prompt:
        if self.messages[-1].role != "user":
            raise ValueError("key 'messages': expected a chat that ends with a user message")
        return self


Prompts = RootModel[list[Prompt]]


class Answer(Prompt):
    king: str | None  # older versions wrote null for "not yet"
    challenger: str | None


class Verdict(BaseModel, strict=True):
    key: str
    judge: str
    order: Order
    look: int = 1  # 3: the reader's test, a finding
    calls: dict[str, int | str] | None  # None: the judge's answer could not be read
    reason: str
    usage: dict[str, int] | None
    usage_all_tries: dict[str, int] | None = None
    cost_usd: FiniteFloat | None

    @model_validator(mode="after")
    def check_calls(self) -> Verdict:
        if self.calls and self.look < 3 and not {*self.calls.values()} <= {0, 1, 2}:
            raise ValueError("key 'calls': expected 0, 1 or 2 for each metric")
        return self


class Score(BaseModel, strict=True):
    stem: str
    instance_id: str
    repo: str
    mode: Literal[1, 2]
    points: int | None
    max_points: int | None
    score: FiniteFloat | None = None
    parsed: bool
    status: Literal["parsed", "parse-fail", "unfinished", "stopped"]  # the last: older versions
    metrics: dict[str, FiniteFloat | None] | None
    by_judge: dict[str, FiniteFloat | None]
    reason: str | None
    sha: dict[Literal["chat", "king", "challenger", "assistant"], str] = Field(min_length=4)
    verdicts: list[Verdict]
    on_other_metrics: list[Verdict] = []  # than today's

    @model_validator(mode="after")
    def check_sums(self) -> Score:
        if self.parsed != (self.status == "parsed"):
            raise ValueError("keys 'parsed' and 'status' contradict each other")
        won = self.points
        most = self.max_points
        is_sound = None not in (won, self.score) and most and 0 <= won <= most
        if self.parsed and not (is_sound and abs(self.score - 100 * won / most) < 1e-6):
            raise ValueError(f"score {self.score} is not 100 * points / max_points ({won}/{most})")
        return self


def read_as(form: type[BaseModel], path: Path) -> dict | list:
    """Return the JSON document at `path` as it stands there.

    Raises FileNotFoundError, and BadFile with the first thing that is not as `form` has it.
    """
    document = read_json(path)
    try:
        form.model_validate(document)
    except ValidationError as error:
        wrong = error.errors()[0]
        words = [f"record {at + 1}" if type(at) is int else f"key {at!r}" for at in wrong["loc"]]
        words.append("missing" if wrong["type"] == "missing" else wrong["msg"])
        raise BadFile(path, ": ".join(words).replace("Value error, ", "")) from None
    return document
