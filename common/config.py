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
from typing import Annotated
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from common.files import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPTS_FOLDER = Path(__file__).resolve().parent.parent
DEFAULT_BASE_URL = "https://llm.chutes.ai/v1"

# ---------------------------------------------------------------------------------- what may be set

# Request fields that have a setting of their own, or that are ours.
_OUR_FIELDS = {
    "model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p",
}  # fmt: skip


def _none_twice(models: list[str]) -> list[str]:
    if len(set(models)) < len(models):
        raise ValueError("a model stands twice")
    return models


def _other_fields(table: dict) -> dict:
    if table.keys() & _OUR_FIELDS:
        raise ValueError("a field that is set elsewhere")
    return table


def _within(default: float, low: float, high: float) -> FieldInfo:
    """Declare a number with its default and its bounds (inclusive)."""
    kind = "a whole number" if isinstance(default, int) else "a number"
    return Field(default, ge=low, le=high, description=f"{kind} from {low:,} to {high:,}")


# Each description says what a value must be; errors show it.
ModelId = Annotated[str, Field(pattern=r"\S", description='a model id such as "maker/model"')]
ModelList = Annotated[
    list[ModelId],
    AfterValidator(_none_twice),
    Field(
        min_length=1,
        description='a list of at least one model id, none twice, such as ["maker/model"]',
    ),
]
RequestFields = Annotated[
    dict[str, JsonValue],
    AfterValidator(_other_fields),
    Field(description=f"a table of request fields, other than {', '.join(sorted(_OUR_FIELDS))}"),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


ProviderName = Annotated[
    str, Field(description='the NAME of a [provider.NAME] section, "" for CHUTES_BASE_URL in .env')
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

    provider: ProviderName = ""
    temperature: float = _within(1.0, 0, 2)
    top_p: float = _within(0.95, 0.01, 1)
    # Kimi-K2.6 at 4,096 spends all on reasoning; its maker says >= 16,000.
    max_tokens: int = _within(16000, 1, 1_000_000)
    # The largest output of Kimi-K2.6 and DeepSeek-V3.2 on Chutes is 65,535.
    max_tokens_cap: int = _within(64000, 1, 1_000_000)
    extra_body: RequestFields = {}
    stream: bool = Field(True, description="true or false")
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
    models: ModelList = list(DEFAULT_OVERRIDES)
    temperature: float = _within(0.6, 0, 2)
    concurrency: int = _within(16, 1, 4096)
    stop_early: bool = Field(False, description="true or false")
    full_share: float = _within(0.25, 0.01, 1)
    override: dict[str, _Call] = {
        model: _Call.model_validate(table) for model, table in DEFAULT_OVERRIDES.items()
    }


def _low_to_high(band: list[float]) -> list[float]:
    if len(band) != 2 or not 0 <= band[0] <= band[1] <= 100:
        raise ValueError("no band")
    return band


class Confirm(_Section):
    """The second look: who is asked about which first scores."""

    provider: ProviderName = ""  # "": as [judge] has it
    models: Annotated[
        list[ModelId],
        AfterValidator(_none_twice),
        Field(description="a list of model ids, none twice, or [] for no second look"),
    ] = []
    band: Annotated[
        list[float],
        AfterValidator(_low_to_high),
        Field(strict=False, description="two scores from 0 to 100, the lower one first"),
    ] = [73, 90]
    peek: bool = Field(True, description="true or false")


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

    def judge_call(self, model: str) -> CallSettings:
        """Return how one judge is asked: its own table over [judge]."""
        values = {key: getattr(self.judge, key) for key in _Call.model_fields}
        override = self.judge.override.get(model)
        if override is not None:
            values |= override.model_dump(exclude_unset=True)
        return CallSettings(model=model, **values)

    def confirm_call(self, model: str) -> CallSettings:
        """Return how a judge of the second look is asked: as a judge, perhaps elsewhere."""
        call = self.judge_call(model)
        override = self.judge.override.get(model)
        own = override is not None and "provider" in override.model_fields_set
        if not self.confirm.provider or own:
            return call
        return call.model_copy(update={"provider": self.confirm.provider})


# --------------------------------------------------------------------------------------- chain.toml


def load_config() -> Config:
    """Return the settings of this run: the nearest chain.toml, else the defaults.

    Raises UserError naming section, key, value and what is allowed.
    """
    path = _find("chain.toml")
    if path is None:
        return Config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid TOML: it is not UTF-8. Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from None
    return check_config(document, path)


def check_config(document: dict, path: Path | str = "chain.toml") -> Config:
    """Return a parsed chain.toml over the defaults. Raises UserError."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error.errors()[0]['loc'], document)}") from None
    for name, provider in config.provider.items():
        _check_address(provider.base_url, f"{path}: [provider.{name}] base_url", "key_env")
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
    depth = 1
    if place[:2] == ("judge", "override"):
        depth = 3
    elif place[0] == "provider":
        depth = 2
    names = [name if name.isidentifier() else f'"{name}"' for name in place[:depth]]
    section = ".".join(names)
    value = document
    for name in place[: depth + 1]:
        value = value.get(name) if isinstance(value, dict) else value
    if place[0] not in Config.model_fields:
        return f"there is no section [{section}]; {_hint(section, Config)}"
    if len(place) <= depth:
        return f"{section} = {value!r}: expected a section, written [{section}]."
    known = {2: Provider, 3: _Call}.get(depth) or Config.model_fields[place[0]].annotation
    key = place[depth]
    if key not in known.model_fields:
        return f"[{section}] has no key {key!r}; {_hint(key, known)}"
    wanted = known.model_fields[key].description
    if value is None:
        return f"[{section}] {key} is missing: expected {wanted}."
    if key == "key_env":  # it may be the key itself
        return f"[{section}] {key}: expected {wanted}."
    return f"[{section}] {key} = {value!r}: expected {wanted}."


def _hint(name: str, section: type[_Section]) -> str:
    known = list(section.model_fields)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}."


# -------------------------------------------------------------------------------------- environment


@dataclass(frozen=True)
class Endpoint:
    """Where a provider is and what it is asked with. The key's value appears in no repr."""

    base_url: str
    api_key: str = field(repr=False)
    url_place: str = "CHUTES_BASE_URL in .env"  # where the user changes it
    key_place: str = "CHUTES_API_KEY in .env"


@dataclass(frozen=True)
class Environment:
    """What .env and the environment say: the providers by name ("" is .env's own), the mode."""

    providers: dict[str, Endpoint]
    duel_mode: int


_DEFAULTS = Config()


def load_environment(
    config: Config = _DEFAULTS, calls: Iterable[CallSettings] = (_DEFAULTS.generate,)
) -> Environment:
    """Return the mode, and the providers that `calls` go to. Raises UserError.

    The environment goes over the nearest .env. A key is demanded only where it is known to be
    needed: local servers mostly need none.
    """
    values = environment_values()
    providers = {}
    for call in calls:
        if call.provider:
            providers[call.provider] = _endpoint(call.provider, config, values)
        else:
            providers[""] = _own_endpoint(values)
    mode = (values.get("DUEL_MODE") or "2").strip()
    if mode not in ("1", "2"):
        raise UserError(
            f"DUEL_MODE = {mode[:40]!r}: expected 2 (challenger against king) "
            "or 1 (against the reference)."
        )
    return Environment(providers, int(mode))


def _own_endpoint(values: dict[str, str | None]) -> Endpoint:
    """Return the provider of .env."""
    base_url = (values.get("CHUTES_BASE_URL") or DEFAULT_BASE_URL).strip().rstrip("/")
    _check_address(base_url, "CHUTES_BASE_URL", "CHUTES_API_KEY")
    api_key = _key(values, "CHUTES_API_KEY")
    if not api_key and base_url == DEFAULT_BASE_URL:
        raise UserError(
            "CHUTES_API_KEY is not set. Write it into .env here (copy .env.example), "
            "or set CHUTES_BASE_URL to a server that needs no key."
        )
    return Endpoint(base_url, api_key)


def _endpoint(name: str, config: Config, values: dict[str, str | None]) -> Endpoint:
    """Return the provider of a [provider.NAME] section."""
    section = config.provider[name]
    api_key = _key(values, section.key_env) if section.key_env else ""
    if section.key_env and not api_key:
        raise UserError(
            f"{section.key_env} is not set: [provider.{name}] key_env in chain.toml names it.\n"
            "Write it into .env here."
        )
    return Endpoint(
        base_url=section.base_url.strip().rstrip("/"),
        api_key=api_key,
        url_place=f"[provider.{name}] base_url in chain.toml",
        key_place=f"{section.key_env or 'the key'} in .env ([provider.{name}] key_env names it)",
    )


def _key(values: dict[str, str | None], name: str) -> str:
    api_key = (values.get(name) or "").strip()
    if not api_key.isascii() or not api_key.isprintable():
        raise UserError(f"{name} holds characters that no key has. Copy it into .env again.")
    return api_key


def _check_address(base_url: str, place: str, key_place: str) -> None:
    """Raise UserError where this is no address, or one with a user or a password."""
    try:
        address = urlsplit(base_url)
        host = address.hostname
        host = host if address.port != 0 else ""
    except ValueError:  # such as a port above 65535
        host = ""
    if not host or address.scheme not in ("http", "https"):
        raise UserError(
            f"{place} = {base_url[:200]!r}: expected an address such as {DEFAULT_BASE_URL}."
        )
    if "@" in address.netloc:
        raise UserError(
            f"{place} holds a user or a password. "
            f"Put the key into {key_place}, the address without it here."
        )


def environment_values() -> dict[str, str | None]:
    """Return the environment over the nearest .env. Raises UserError."""
    path = _find(".env")
    values = {}
    if path:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise UserError(f"{path}: not UTF-8 (UTF-16 or Latin-1?). Save it as UTF-8.")
        values = dotenv_values(stream=StringIO(text))
    return {**values, **os.environ}


def _find(name: str) -> Path | None:
    """Return the file of this name here, one folder up, or beside the scripts."""
    for folder in (Path("."), Path(".."), SCRIPTS_FOLDER):
        if (folder / name).is_file():
            return folder / name
    return None
