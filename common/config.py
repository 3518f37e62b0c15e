"""Settings: chain.toml over the defaults that stand here, and the environment (.env) for secrets.

Every number that shapes a result has its one home in the classes below. chain.toml repeats the
defaults with comments, for editing; a test holds the two together.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from common.files import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What judges compare, in the order of the rubric.
METRICS = ("correctness", "grounding", "progress", "protocol", "efficiency")

DEFAULT_BASE_URL = "https://llm.chutes.ai/v1"

ModelId = Annotated[str, Field(pattern=r"\S")]
# Request fields that have a setting of their own, or that are ours.
_OUR_FIELDS = set("max_tokens messages model stream stream_options temperature top_p".split())


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown_keys(cls, table: Any) -> Any:
        known = list(cls.model_fields)
        for key in table if isinstance(table, dict) else []:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
                raise ValueError(f"has no key {key!r}; {hint}")
        return table


class Provider(_Section):
    """A provider beside the one of .env; `key_env` is "" for a server that needs no key."""

    base_url: str
    key_env: str = Field("", pattern=r"^([A-Z_][A-Z0-9_]*)?$")


class _Call(_Section):
    """How a model is called: shared by [generate], [judge] and [judge.override."maker/model"]."""

    provider: str = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(0.95, ge=0.01, le=1)
    # Kimi-K2.6 at 4,096 spends all on reasoning; its maker says >= 16,000.
    max_tokens: int = Field(16000, ge=1, le=1_000_000)
    # The largest output of Kimi-K2.6 and DeepSeek-V3.2 on Chutes is 65,535.
    max_tokens_cap: int = Field(64000, ge=1, le=1_000_000)
    extra_body: dict[str, JsonValue] = {}
    stream: bool = True
    concurrency: int = Field(32, ge=1, le=4096)
    stall_s: float = Field(120.0, ge=0.1, le=3600)  # cold models take a minute to the first byte
    timeout_s: float = Field(900.0, ge=1, le=86400)  # Chutes gives an upstream attempt 600 s
    retry_budget_s: float = Field(600.0, ge=0, le=86400)
    outage_s: float = Field(120.0, ge=1, le=86400)
    bad_reply_tries: int = Field(4, ge=1, le=20)


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
    max_record_chars: int = Field(200_000, ge=1000, le=10_000_000)
    max_patch_chars: int = Field(40_000, ge=1000, le=1_000_000)


# What a judge needs otherwise than [judge] says.
DEFAULT_OVERRIDES: dict[str, dict] = {
    "moonshotai/Kimi-K2.6-TEE": {"temperature": 1.0},  # refuses temperature 0 while thinking
    "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE": {"extra_body": {"top_k": 20}},  # the maker's sampling
    "deepseek-ai/DeepSeek-V3.2-TEE": {"max_tokens": 4000, "concurrency": 8},  # thinking is off
}


class Judge(_Call):
    models: list[ModelId] = Field(list(DEFAULT_OVERRIDES), min_length=1)
    temperature: float = Field(0.6, ge=0, le=2)
    concurrency: int = Field(16, ge=1, le=4096)
    override: dict[str, _Call] = Field(DEFAULT_OVERRIDES, validate_default=True)


class Confirm(_Section):
    """The second look: who is asked about which first scores; provider "": as [judge] has it."""

    provider: str = ""
    models: list[ModelId] = []
    band: list[Annotated[float, Field(ge=0, le=100)]] = Field([73, 90], min_length=2, max_length=2)
    peek: bool = True


class Duel(_Section):
    win_margin: float = Field(2.0, ge=0, le=100)
    min_valid_turn_frac: float = Field(0.5, ge=0, le=1)
    alpha: float = Field(0.05, ge=0.0001, le=0.5)
    resamples: int = Field(10000, ge=100, le=1_000_000)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    # No interval of ours holds its level below five.
    min_instances: int = Field(5, ge=2, le=10_000)


class Config(_Section):
    """chain.toml over the defaults."""

    generate: Generate = Generate()
    judge: Judge = Judge()
    confirm: Confirm = Confirm()
    duel: Duel = Duel()
    provider: dict[str, Provider] = {}

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
        raise UserError(f"{path}: {_explain(error.errors()[0])}") from None
    for name, provider in config.provider.items():
        check_address(provider.base_url, f"{path}: [provider.{name}] base_url", "key_env")

    wrong = []
    if config.confirm.band[0] > config.confirm.band[1]:
        wrong.append(f"[confirm] band = {config.confirm.band}: expected the lower score first")
    for section in ("judge", "confirm"):
        models = getattr(config, section).models
        if len(set(models)) < len(models):
            wrong.append(f"[{section}] models = {models}: expected none twice")
    calls = [("generate", config.generate)]
    calls += [("judge", config.judge_call(model)) for model in config.judge.models]
    calls += [("confirm", config.confirm_call(model)) for model in config.confirm.models]
    for section, call in calls:
        place = f"{call.model}, [{section}]"
        if call.provider and call.provider not in config.provider:
            what = f"there is no section [provider.{call.provider}] with its base_url and key_env"
            wrong.append(f"{place} provider = {call.provider!r}: {what}")
        if call.max_tokens > call.max_tokens_cap:
            what = f"expected at most max_tokens_cap, which is {call.max_tokens_cap}"
            wrong.append(f"{place} max_tokens = {call.max_tokens}: {what}")
        for key in sorted(_OUR_FIELDS & call.extra_body.keys()):
            wrong.append(f"{place} extra_body: {key!r} has no place there")
    if wrong:
        raise UserError(f"{path}: {wrong[0]}")
    return config


def _explain(error: dict) -> str:
    """Say in a line what pydantic found wrong, and where."""
    names = [name for name in error["loc"] if isinstance(name, str)]  # no places in lists
    names = [name if name.isidentifier() else f'"{name}"' for name in names]
    words = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":  # an unknown key, so that the place is its section
        return f"[{'.'.join(names)}] {words}" if names else words
    *section, key = names
    place = f"[{'.'.join(section)}] {key}" if section else key
    if error["type"] == "missing":
        return f"{place} is missing"
    if key == "key_env":  # it may be the key itself
        name = "the NAME of the variable in .env that holds the key"
        return f"{place}: expected {name}, never the key itself"
    return f"{place} = {error['input']!r:.200}: {words}"


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


# ----------------------------------------------------------------------------- the environment


@dataclass(frozen=True)
class Endpoint:
    """Where a provider is and what it is asked with. The key's value appears in no repr."""

    base_url: str
    api_key: str = field(repr=False)
    url_place: str  # where the user changes it
    key_place: str


@dataclass(frozen=True)
class Environment:
    """What .env and the environment say: the providers by name ("" is .env's own), the mode."""

    providers: dict[str, Endpoint]
    duel_mode: int


def load_environment(config: Config, calls: Iterable[CallSettings]) -> Environment:
    """Return the mode, and the providers that `calls` go to. Raises UserError.

    A key is demanded only where it is known to be needed: local servers mostly need none.
    """
    values = environment_values()
    base_url = (values.get("CHUTES_BASE_URL") or DEFAULT_BASE_URL).strip()
    known = dict(config.provider)
    known[""] = Provider(base_url=base_url, key_env="CHUTES_API_KEY")
    providers = {}
    for name in {call.provider for call in calls}:
        base_url = known[name].base_url.strip().rstrip("/")
        key_name = known[name].key_env
        if name:
            url_place = f"[provider.{name}] base_url in chain.toml"
            needs_key = key_name != ""
        else:
            check_address(base_url, "CHUTES_BASE_URL", "CHUTES_API_KEY")
            url_place = "CHUTES_BASE_URL in .env"
            needs_key = base_url == DEFAULT_BASE_URL
        api_key = (values.get(key_name) or "").strip()
        if not api_key.isascii() or not api_key.isprintable():
            raise UserError(f"{key_name} holds characters that no key has. Copy it anew.")
        if needs_key and not api_key:
            raise UserError(
                f"{key_name} is not set. Write it into .env here (.env.example shows how), "
                f"or the address of a server that needs none into {url_place}."
            )
        key_place = f"{key_name or 'the key'} in .env"
        providers[name] = Endpoint(base_url, api_key, url_place, key_place)
    mode = (values.get("DUEL_MODE") or "2").strip()
    if mode not in ("1", "2"):
        raise UserError(
            f"DUEL_MODE = {mode[:40]!r}: expected 2 (challenger against king) "
            "or 1 (against the reference)."
        )
    return Environment(providers, int(mode))


def environment_values() -> dict[str, str | None]:
    """Return the environment over the nearest .env. Raises UserError."""
    path = find_setting_file(".env")
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path else ""
    if "\0" in text or "\ufffd" in text:
        raise UserError(f"{path}: not UTF-8 (UTF-16 or Latin-1?). Save it as UTF-8.")
    return {**dotenv_values(stream=StringIO(text)), **os.environ}
