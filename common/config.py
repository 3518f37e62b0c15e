"""Settings: chain.toml over the defaults that stand here. Secrets: the environment over .env."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, JsonValue, ValidationError, field_validator, model_validator

from common.files import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What judges compare, in the order of the rubric.
METRICS = ("correctness", "grounding", "progress", "protocol", "efficiency")

DEFAULT_BASE_URL = "https://llm.chutes.ai/v1"

ModelId = Annotated[str, Field(pattern=r"\S")]
Prices = dict[Literal["prompt", "completion"], Annotated[float, Field(ge=0)]]
# Request fields that have a setting of their own, or that are ours.
_MAY_BE_OMITTED = {"temperature", "top_p", "stream_options"}
_MOST_TOKENS = {"max_tokens", "max_completion_tokens"}
_OUR_FIELDS = {"messages", "model", "stream", *_MAY_BE_OMITTED, *_MOST_TOKENS}


class _Section(BaseModel, frozen=True, strict=True, allow_inf_nan=False):
    @model_validator(mode="before")
    @classmethod
    def refuse_unknown_keys(cls, table: Any) -> Any:
        known = ", ".join(cls.model_fields)
        for key in table if isinstance(table, dict) else []:
            if key not in cls.model_fields:
                near = get_close_matches(key, cls.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {known}"
                raise ValueError(f"has no key {key!r}; {hint}")
        return table


class Provider(_Section):
    """A provider beside the one of .env; `key_env` is "" for a server that needs no key."""

    base_url: str
    key_env: str = Field("", pattern=r"^([A-Z_][A-Z0-9_]*)?$")
    batch_price: float = Field(0.5, ge=0, le=1)  # OpenAI, Together, Groq and most others


class _Call(_Section):  # [generate], [judge] and [judge.override."maker/model"]
    provider: str = ""
    # Kimi's maker asks for 1.0 and 0.95 while thinking.
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(0.95, ge=0.01, le=1)
    # Kimi-K2.6 at 4,096 spends all on reasoning; its maker says >= 16,000.
    max_tokens: int = Field(16000, ge=1, le=1_000_000)
    # The largest output of Kimi-K2.6 and DeepSeek-V3.2 on Chutes is 65,535.
    max_tokens_cap: int = Field(64000, ge=1, le=1_000_000)
    extra_body: dict[str, JsonValue] = {}
    omit: list[str] = []
    max_tokens_field: str = Field("max_tokens", pattern=r"^[a-z][a-z0-9_]*$")
    prices: Prices = {}
    stream: bool = True
    concurrency: int = Field(32, ge=1, le=4096)  # the most; the pace finds what a provider takes
    stall_s: float = Field(120.0, ge=0.1, le=3600)  # cold models take a minute to the first byte
    timeout_s: float = Field(900.0, ge=1, le=86400)  # Chutes gives an upstream attempt 600 s
    retry_budget_s: float = Field(600.0, ge=0, le=86400)  # as long as one of those attempts
    outage_s: float = Field(120.0, ge=1, le=86400)  # as long as a cold model may be silent
    bad_reply_tries: int = Field(4, ge=1, le=20)  # chosen, not measured


class CallSettings(_Call):
    model: ModelId

    def sampling(self) -> dict:
        """Return the request's fields that shape a reply: another value, another reply."""
        fields = self.model_dump(include={"temperature", "top_p", "max_tokens"}) | self.extra_body
        return {name: value for name, value in fields.items() if name not in self.omit}


class Generate(CallSettings):
    model: ModelId = "moonshotai/Kimi-K2.6-TEE"
    # Some 50,000 and 10,000 tokens, beside a chat, of the 131,072 that the smallest context holds.
    max_record_chars: int = Field(200_000, ge=1000, le=10_000_000)
    max_patch_chars: int = Field(40_000, ge=1000, le=1_000_000)
    show_record: bool = True
    challenger: Literal["informed", "chosen"] = "informed"
    candidates: int = Field(4, ge=2, le=20)  # chosen, not measured


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

    @field_validator("override", mode="before")
    @classmethod
    def add_to_defaults(cls, tables: Any) -> Any:
        added = dict(DEFAULT_OVERRIDES)
        for model, own in tables.items() if isinstance(tables, dict) else ():
            added[model] = {**added.get(model, {}), **own} if isinstance(own, dict) else own
        return added if isinstance(tables, dict) else tables


class Confirm(_Section):
    """The second look: who is asked about which first scores; provider "": as [judge] has it."""

    provider: str = ""
    models: list[ModelId] = []
    # Measured: tests/BENCHMARKS.md, what lands in final/.
    band: list[Annotated[float, Field(ge=0, le=100)]] = Field([73, 90], min_length=2, max_length=2)
    peek: bool = True


class Duel(_Section):
    # The margin, the share and the level are chosen; a user sets his own.
    win_margin: float = Field(2.0, ge=0, le=100)
    min_valid_turn_frac: float = Field(0.5, ge=0, le=1)
    alpha: float = Field(0.05, ge=0.0001, le=0.5)
    resamples: int = Field(10000, ge=100, le=1_000_000)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    min_instances: int = Field(5, ge=2, le=10_000)  # below five no bound of ours holds its level


class Config(_Section):
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
    """Return the nearest chain.toml over the defaults. Raises UserError."""
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
    for problem in _problems(config):
        raise UserError(f"{path}: {problem}")
    return config


def _problems(config: Config) -> Iterator[str]:
    """Yield what is wrong where keys, each right by itself, do not fit together."""
    if config.confirm.band[0] > config.confirm.band[1]:
        yield f"[confirm] band = {config.confirm.band}: expected the lower score first"
    if config.generate.challenger == "chosen" and not config.generate.show_record:
        yield '[generate] show_record = false: with challenger = "chosen" the choice rests on it'
    duel = config.duel
    if duel.alpha * (duel.resamples + 1) < 1:
        least = f"resamples of {math.ceil(1 / duel.alpha) - 1} or more, for a bound to have a rank"
        yield f"[duel] alpha = {duel.alpha:g}, resamples = {duel.resamples}: expected {least}"
    calls = [("[generate]", config.generate)]
    for section, call_of in (("judge", config.judge_call), ("confirm", config.confirm_call)):
        models = getattr(config, section).models
        calls += [(f"[{section}]", call_of(model)) for model in models]
        if len(set(models)) < len(models):
            yield f"[{section}] models = {models}: expected none twice"
    may_be_omitted = _MAY_BE_OMITTED.union(*(call.extra_body for _, call in calls))
    for section, call in calls:
        key = f"{call.model}, {section}"
        if call.provider not in ("", *config.provider):
            missing = f"[provider.{call.provider}] with its base_url and key_env"
            yield f"{key} provider = {call.provider!r}: there is no section {missing}"
        if call.max_tokens > call.max_tokens_cap:
            most = f"at most max_tokens_cap, which is {call.max_tokens_cap}"
            yield f"{key} max_tokens = {call.max_tokens}: expected {most}"
        if ours := call.extra_body.keys() & {*_OUR_FIELDS, call.max_tokens_field}:
            yield f"{key} extra_body: {min(ours)!r} has no place there"
        for name in sorted({*call.omit} - may_be_omitted):
            known = ", ".join(sorted(may_be_omitted))
            yield f"{key} omit: {name!r} is no field that can be left out; such are {known}"
        if call.max_tokens_field in _OUR_FIELDS - _MOST_TOKENS:
            expected = "that is another field; expected such as 'max_completion_tokens'"
            yield f"{key} max_tokens_field = {call.max_tokens_field!r}: {expected}"
        if len(call.prices) == 1:
            yield f"{key} prices = {call.prices}: expected {{ prompt = ..., completion = ... }}"


def _explain(error: dict) -> str:
    """Return in a line what pydantic found wrong, and where."""
    names = [name for name in error["loc"] if isinstance(name, str)]  # no positions in lists
    names = [name if name.isidentifier() else f'"{name}"' for name in names]
    words = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":  # an unknown key: its section is all that is known
        return f"[{'.'.join(names)}] {words}" if names else words
    *section, key = names
    where = f"[{'.'.join(section)}] {key}" if section else key
    if error["type"] == "missing":
        return f"{where} is missing"
    if key == "key_env":  # it may be the key itself: never shown
        return f"{where}: expected the NAME of the variable in .env, never the key itself"
    return f"{where} = {error['input']!r:.200}: {words}"


# -------------------------------------------------------------------------------- the environment


@dataclass(frozen=True)
class Endpoint:
    """A provider's address and key, and in words where the user changes them."""

    base_url: str
    api_key: str = field(repr=False)
    url_place: str
    key_place: str
    batch_price: float


@dataclass(frozen=True)
class Environment:
    """The providers by name ("" is .env's own), and the duel's mode."""

    providers: dict[str, Endpoint]
    duel_mode: int


def load_environment(config: Config, calls: Iterable[CallSettings]) -> Environment:
    """Return the mode, and the providers that `calls` go to. Raises UserError."""
    values = environment_values()
    mode = values.get("DUEL_MODE") or "2"
    if mode not in ("1", "2"):
        modes = "2 (challenger against king) or 1 (against the reference)"
        raise UserError(f"DUEL_MODE = {mode[:40]!r}: expected {modes}.")
    own_url = values.get("CHUTES_BASE_URL") or DEFAULT_BASE_URL
    own = Provider(base_url=own_url, key_env="CHUTES_API_KEY")
    endpoints = {}
    for name in sorted({call.provider for call in calls}):
        provider = config.provider[name] if name else own
        key = provider.key_env
        place = f"[provider.{name}] base_url in chain.toml"
        if not name:
            place = "CHUTES_BASE_URL in .env"
            check_address(own_url, "CHUTES_BASE_URL", key)
        base_url = provider.base_url.strip().rstrip("/")
        check_way_out(base_url)
        api_key = values.get(key, "")
        if not api_key.isascii() or not api_key.isprintable():
            raise UserError(f"{key} holds characters that no key has. Copy it anew.")
        # Local servers mostly need no key: one is asked for where it is named, and for Chutes.
        if not api_key and key and (name or base_url == DEFAULT_BASE_URL):
            write = "Write it into .env here (.env.example shows how)"
            other = f"or the address of a server that needs none into {place}"
            raise UserError(f"{key} is not set. {write}, {other}.")
        key_place = f"{key or 'the key'} in .env"
        endpoints[name] = Endpoint(base_url, api_key, place, key_place, provider.batch_price)
    return Environment(endpoints, int(mode))


def check_way_out(url: str) -> None:
    """Raise UserError for a proxy or a certificate file of the environment that cannot be used."""
    import ssl  # here, because they take some time
    from urllib.request import proxy_bypass_environment

    certificates = os.environ.get("SSL_CERT_FILE")
    try:
        if certificates:
            ssl.create_default_context(cafile=certificates)
    except OSError as error:
        words = f"SSL_CERT_FILE = {certificates}: {error.strerror or error}"
        raise UserError(f"{words}.\nGive a file of certificates, or unset it.") from None
    for name, value in os.environ.items():
        kind, is_address, _ = value.partition("://")
        if name.lower().endswith("_proxy") and is_address and kind not in ("http", "https"):
            # The HTTP client takes socks5 as it is made, but cannot speak it; others not even so.
            if kind.startswith("socks5") and proxy_bypass_environment(urlsplit(url).netloc):
                continue
            words = "such a proxy cannot be used. Unset it, or name an http:// one"
            raise UserError(f"{name} = {kind}://...: {words}.")


def environment_values() -> dict[str, str]:
    """Return the environment over the nearest .env, values stripped. Raises UserError."""
    path = find_setting_file(".env")
    values = {}
    if path is not None:
        from dotenv import dotenv_values  # here, because many machines have no .env

        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if "\0" in text or "\ufffd" in text:
            raise UserError(f"{path}: not UTF-8 (UTF-16 or Latin-1?). Save it as UTF-8.")
        values = dotenv_values(stream=StringIO(text))
    return {name: (value or "").strip() for name, value in {**values, **os.environ}.items()}


def check_address(base_url: str, setting: str, key_setting: str) -> None:
    """Raise UserError where `setting` holds no address, or one with a user or a password."""
    try:
        address = urlsplit(base_url)
        is_right = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # such as a port above 65535
        is_right = False
    if not is_right:
        expected = f"expected an address such as {DEFAULT_BASE_URL}"
        raise UserError(f"{setting} = {base_url[:200]!r}: {expected}.")
    if "@" in address.netloc:
        advice = f"Put the key into {key_setting}, the address without it here."
        raise UserError(f"{setting} holds a user or a password. {advice}")


def find_setting_file(name: str) -> Path | None:
    """Return the file of this name here, one folder up, or beside the scripts."""
    for folder in (Path("."), Path(".."), Path(__file__).resolve().parent.parent):
        if (folder / name).is_file():
            return folder / name
    return None
