"""Settings: chain.toml over the defaults that stand here. Secrets are in environment.py.

Every number that shapes a result has its one home in the classes below. chain.toml repeats the
defaults with comments, for editing; a test holds the two together.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from common.files import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_BASE_URL = "https://llm.chutes.ai/v1"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# A setting is declared with its default and, as its description, what it must be: errors show it.


def _within(default: float, low: float, high: float) -> FieldInfo:
    """Declare a number with its default and its bounds (inclusive)."""
    kind = "a whole number" if isinstance(default, int) else "a number"
    return Field(default, ge=low, le=high, description=f"{kind} from {low:,} to {high:,}")


def _check(is_right: Callable[[Any], bool]) -> AfterValidator:
    """Demand of a value what its type does not say."""

    def check(value):
        if not is_right(value):
            raise ValueError
        return value

    return AfterValidator(check)


ModelId = Annotated[str, Field(pattern=r"\S", description='a model id such as "maker/model"')]
_Models = Annotated[list[ModelId], _check(lambda models: len(set(models)) == len(models))]
_PROVIDER = 'the NAME of a [provider.NAME] section, "" for CHUTES_BASE_URL in .env'
# Request fields that have a setting of their own, or that are ours.
_OUR_FIELDS = "max_tokens messages model stream stream_options temperature top_p".split()
_RequestFields = Annotated[
    dict[str, JsonValue],
    _check(lambda table: not table.keys() & set(_OUR_FIELDS)),
    Field(description=f"a table of request fields, other than {', '.join(_OUR_FIELDS)}"),
]


class Provider(_Section):
    """A provider beside the one of .env."""

    base_url: str = Field(min_length=1, description='an address such as "http://127.0.0.1:8000/v1"')
    key_env: str = Field(
        "",
        pattern=r"^([A-Z_][A-Z0-9_]*)?$",
        description="the NAME of the variable in .env that holds the key, never the key itself; "
        '"" for a server that needs none',
    )


class _Call(_Section):
    """How a model is called: shared by [generate], [judge] and [judge.override."maker/model"]."""

    provider: str = Field("", description=_PROVIDER)
    temperature: float = _within(1.0, 0, 2)
    top_p: float = _within(0.95, 0.01, 1)
    # Kimi-K2.6 at 4,096 spends all on reasoning; its maker says >= 16,000.
    max_tokens: int = _within(16000, 1, 1_000_000)
    # The largest output of Kimi-K2.6 and DeepSeek-V3.2 on Chutes is 65,535.
    max_tokens_cap: int = _within(64000, 1, 1_000_000)
    extra_body: _RequestFields = {}
    stream: bool = True
    concurrency: int = _within(32, 1, 4096)
    stall_s: float = _within(120.0, 0.1, 3600)  # cold models take a minute to the first byte
    timeout_s: float = _within(900.0, 1, 86400)  # Chutes gives an upstream attempt 600 s
    retry_budget_s: float = _within(600.0, 0, 86400)
    outage_s: float = _within(120.0, 1, 86400)
    bad_reply_tries: int = _within(4, 1, 20)


class CallSettings(_Call):
    """How one model is called.

    `sampling()` shapes its replies; the rest only decides when and how often it is asked.
    """

    model: ModelId

    def sampling(self) -> dict:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            **self.extra_body,
        }


class Generate(CallSettings):
    model: ModelId = "moonshotai/Kimi-K2.6-TEE"
    max_record_chars: int = _within(200_000, 1000, 10_000_000)
    max_patch_chars: int = _within(40_000, 1000, 1_000_000)


# What a judge needs otherwise than [judge] says.
DEFAULT_OVERRIDES: dict[str, dict] = {
    "moonshotai/Kimi-K2.6-TEE": {"temperature": 1.0},  # refuses temperature 0 while thinking
    "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE": {"extra_body": {"top_k": 20}},  # the maker's sampling
    "deepseek-ai/DeepSeek-V3.2-TEE": {"max_tokens": 4000, "concurrency": 8},  # thinking is off
}


class Judge(_Call):
    models: _Models = Field(
        list(DEFAULT_OVERRIDES),
        min_length=1,
        description='a list of at least one model id, none twice, such as ["maker/model"]',
    )
    temperature: float = _within(0.6, 0, 2)
    concurrency: int = _within(16, 1, 4096)
    stop_early: bool = False
    full_share: float = _within(0.25, 0.01, 1)
    override: dict[str, _Call] = {
        model: _Call.model_validate(table) for model, table in DEFAULT_OVERRIDES.items()
    }


class Confirm(_Section):
    """The second look: who is asked about which first scores."""

    provider: str = Field("", description=_PROVIDER)  # "": as [judge] has it
    models: _Models = Field(
        [], description="a list of model ids, none twice; [] for no second look"
    )
    band: Annotated[
        list[float],
        _check(lambda band: len(band) == 2 and 0 <= band[0] <= band[1] <= 100),
        Field(strict=False, description="two scores from 0 to 100, the lower one first"),
    ] = [73, 90]
    peek: bool = True


class Duel(_Section):
    win_margin: float = _within(2.0, 0, 100)
    min_valid_turn_frac: float = _within(0.5, 0, 1)
    alpha: float = _within(0.05, 0.0001, 0.5)
    resamples: int = _within(10000, 100, 1_000_000)
    seed: int = _within(0, 0, 2**32 - 1)
    min_instances: int = _within(5, 2, 10_000)  # no interval of ours holds its level below five


class Config(_Section):
    """chain.toml over the defaults."""

    generate: Generate = Generate()
    judge: Judge = Judge()
    confirm: Confirm = Confirm()
    duel: Duel = Duel()
    provider: dict[str, Provider] = {}

    def generator(self) -> CallSettings:
        """Return how king and challenger are asked for."""
        return self.generate

    def judge_call(self, model: str, provider: str = "") -> CallSettings:
        """Return how one judge is asked: its own table over `provider` over [judge]."""
        values = {key: getattr(self.judge, key) for key in _Call.model_fields}
        if provider:
            values["provider"] = provider
        if model in self.judge.override:
            values |= self.judge.override[model].model_dump(exclude_unset=True)
        return CallSettings(model=model, **values)

    def confirm_call(self, model: str) -> CallSettings:
        """Return how a judge of the second look is asked: as a judge, perhaps elsewhere."""
        return self.judge_call(model, self.confirm.provider)


def load_config() -> Config:
    """Return the settings of this run: the nearest chain.toml, else the defaults.

    Raises UserError naming section, key, value and what is allowed.
    """
    path = find_setting_file("chain.toml")
    if path is None:
        return Config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML in UTF-8: {error}.") from None
    return check_config(document, path)


def check_config(document: dict, path: Path | str = "chain.toml") -> Config:
    """Return a parsed chain.toml over the defaults. Raises UserError."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error.errors()[0]['loc'], document)}") from None
    for name, provider in config.provider.items():
        check_address(provider.base_url, f"{path}: [provider.{name}] base_url", "key_env")
    calls = [("generate", config.generator())]
    for model in config.judge.models:
        section = f'judge.override."{model}"' if model in config.judge.override else "judge"
        calls.append((section, config.judge_call(model)))
    calls += [("confirm", config.confirm_call(model)) for model in config.confirm.models]
    for section, call in calls:
        if call.provider and call.provider not in config.provider:
            raise UserError(
                f"{path}: [{section}] provider = {call.provider!r}: there is no section "
                f"[provider.{call.provider}] with its base_url and key_env."
            )
        if call.max_tokens > call.max_tokens_cap:
            raise UserError(
                f"{path}: [{section}] max_tokens = {call.max_tokens}: expected at most "
                f"max_tokens_cap, which is {call.max_tokens_cap}."
            )
    return config


def _explain(place: tuple, document: dict) -> str:
    """Say what is wrong at a place of chain.toml, such as ("judge", "temperature")."""
    if place[0] not in Config.model_fields:
        return f"there is no section [{place[0]}]; {_hint(place[0], Config)}"
    depth = 1  # names that make up the section's own
    known = Config.model_fields[place[0]].annotation
    if place[0] == "provider":
        depth = 2
        known = Provider
    elif place[:2] == ("judge", "override"):
        depth = 3
        known = _Call
    section = ".".join(name if name.isidentifier() else f'"{name}"' for name in place[:depth])
    value = document
    for name in place[: depth + 1]:
        value = value.get(name) if isinstance(value, dict) else value
    if len(place) <= depth:
        return f"{section} = {value!r}: expected a section, written [{section}]."
    key = place[depth]
    if key not in known.model_fields:
        return f"[{section}] has no key {key!r}; {_hint(key, known)}"
    wanted = known.model_fields[key].description or "true or false"
    if value is None:
        return f"[{section}] {key} is missing: expected {wanted}."
    if key == "key_env":  # it may be the key itself
        return f"[{section}] {key}: expected {wanted}."
    return f"[{section}] {key} = {value!r}: expected {wanted}."


def _hint(name: str, section: type[_Section]) -> str:
    known = list(section.model_fields)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}."


def check_address(base_url: str, place: str, key_place: str) -> None:
    """Raise UserError where this is no address, or one with a user or a password."""
    try:
        address = urlsplit(base_url)
        is_right = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # such as a port above 65535
        is_right = False
    if not is_right:
        raise UserError(
            f"{place} = {base_url[:200]!r}: expected an address such as {DEFAULT_BASE_URL}."
        )
    if "@" in address.netloc:
        raise UserError(
            f"{place} holds a user or a password. "
            f"Put the key into {key_place}, the address without it here."
        )


def find_setting_file(name: str) -> Path | None:
    """Return the file of this name here, one folder up, or beside the scripts."""
    for folder in (Path("."), Path(".."), Path(__file__).resolve().parent.parent):
        if (folder / name).is_file():
            return folder / name
    return None
