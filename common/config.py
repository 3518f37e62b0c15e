"""Settings: chain.toml over the defaults that stand here, and the environment (.env) for secrets and machines.

Every number that shapes a result has its one home in SETTINGS; chain.toml repeats the defaults with comments, for
editing, and a test holds the two together.
"""
from __future__ import annotations

import difflib
import json
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from dotenv import dotenv_values

from common.files import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPTS_FOLDER = Path(__file__).resolve().parent.parent
DEFAULT_BASE_URL = "https://llm.chutes.ai/v1"


@dataclass(frozen=True)
class Setting:
    """One key of chain.toml: its default, and what it may be (inclusive bounds for numbers)."""

    default: object
    low: float = -math.inf
    high: float = math.inf

    def expects(self) -> str:
        """What a value must be, in words for an error."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, list):
            return 'a list of at least one model id, none twice, such as ["maker/model"]'
        if isinstance(self.default, dict):
            return f"a table of request fields, other than {', '.join(sorted(_OUR_FIELDS))}"
        if isinstance(self.default, str):
            return "a model id such as \"maker/model\""
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind} of {self.low:g} or more" if self.low > -math.inf else kind

    def accepts(self, value: object) -> bool:
        if isinstance(self.default, bool) or isinstance(value, bool):
            return isinstance(self.default, bool) and isinstance(value, bool)
        if isinstance(self.default, list):
            return (isinstance(value, list) and len(value) == len(set(map(str, value))) > 0
                    and all(isinstance(item, str) and item.strip() for item in value))
        if isinstance(self.default, dict):
            return isinstance(value, dict) and not value.keys() & _OUR_FIELDS and _is_json(value)
        if isinstance(self.default, str):
            return isinstance(value, str) and bool(value.strip())
        kinds = int if isinstance(self.default, int) else (int, float)
        return isinstance(value, kinds) and self.low <= value <= self.high


_OUR_FIELDS = {"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p"}  # have homes of their own


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


# How one model is called: shared by [generate], [judge] and the per-model tables [judge.override."maker/model"].
_CALL = {
    "temperature": Setting(1.0, 0, 2),
    "top_p": Setting(0.95, 0.01, 1),
    "max_tokens": Setting(16000, 1, 1_000_000),  # Kimi-K2.6 at 4,096 spends all on reasoning; its maker says >= 16,000
    "max_tokens_cap": Setting(64000, 1, 1_000_000),  # Kimi-K2.6's and DeepSeek-V3.2's largest output on Chutes is 65,535
    "extra_body": Setting({}),
    "stream": Setting(True),
    "concurrency": Setting(32, 1, 4096),
    "stall_s": Setting(120.0, 0.1, 3600),  # cold models take a minute to the first byte
    "timeout_s": Setting(900.0, 1, 86400),  # Chutes' own limit for an upstream attempt is 600 s
    "retry_budget_s": Setting(600.0, 0, 86400),
    "outage_s": Setting(120.0, 1, 86400),
    "bad_reply_tries": Setting(4, 1, 20),
}

SETTINGS: dict[str, dict[str, Setting]] = {
    "generate": {
        "model": Setting("moonshotai/Kimi-K2.6-TEE"),
        **_CALL,
        "max_record_chars": Setting(200_000, 1000, 10_000_000),
        "max_patch_chars": Setting(40_000, 1000, 1_000_000),
    },
    "judge": {
        "models": Setting(["moonshotai/Kimi-K2.6-TEE", "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE",
                           "deepseek-ai/DeepSeek-V3.2-TEE"]),
        **_CALL,
        "temperature": Setting(0.6, 0, 2),
        "concurrency": Setting(16, 1, 4096),
    },
    "duel": {
        "win_margin": Setting(2.0, 0, 100),
        "min_valid_turn_frac": Setting(0.5, 0, 1),
        "alpha": Setting(0.05, 0.0001, 0.5),
        "resamples": Setting(10000, 100, 1_000_000),
        "seed": Setting(0, 0, 2**32 - 1),
        "min_instances": Setting(5, 2, 10_000),  # below five groups no interval of ours holds its level
    },
}
OVERRIDE_KEYS = tuple(_CALL)
DEFAULT_OVERRIDES: dict[str, dict[str, object]] = {
    "moonshotai/Kimi-K2.6-TEE": {"temperature": 1.0},  # its maker's API refuses temperature 0 while thinking
    "Qwen/Qwen3-235B-A22B-Thinking-2507-TEE": {"extra_body": {"top_k": 20}},  # the maker's sampling; never greedy
    "deepseek-ai/DeepSeek-V3.2-TEE": {"max_tokens": 4000, "concurrency": 8},  # thinking is off; often rate-limited
}


@dataclass(frozen=True)
class CallSettings:
    """How one model is called. `sampling()` is what shapes its replies; the rest only decides when and how often."""

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    max_tokens_cap: int
    extra_body: dict
    stream: bool
    concurrency: int
    stall_s: float
    timeout_s: float
    retry_budget_s: float
    outage_s: float
    bad_reply_tries: int

    def sampling(self) -> dict:
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens,
                **self.extra_body}


@dataclass(frozen=True)
class Config:
    """chain.toml over the defaults: one namespace per section, the per-model tables, and where it was read from."""

    generate: SimpleNamespace
    judge: SimpleNamespace
    duel: SimpleNamespace
    overrides: dict[str, dict[str, object]]
    path: Path | None = None

    def generator(self) -> CallSettings:
        return CallSettings(self.generate.model, **{key: getattr(self.generate, key) for key in OVERRIDE_KEYS})

    def judge_call(self, model: str) -> CallSettings:
        values = {key: getattr(self.judge, key) for key in OVERRIDE_KEYS}
        return CallSettings(model, **{**values, **self.overrides.get(model, {})})


@dataclass(frozen=True)
class Environment:
    """What .env and the environment say. The key's value appears in no repr."""

    base_url: str
    api_key: str = field(repr=False)
    duel_mode: int


# ------------------------------------------------------------------------------------------------------ chain.toml

def load_config() -> Config:
    """The configuration of this run: ./chain.toml, else the scripts' own, else the defaults. Raises UserError."""
    path = _here_or_beside("chain.toml")
    if path is None:
        return check_config({}, None)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from None
    return check_config(document, path)


def check_config(document: dict, path: Path | None) -> Config:
    """The parsed chain.toml over the defaults. Raises UserError naming section, key, value and what is allowed."""
    _refuse_unknown(path, "", document, SETTINGS)
    sections = {}
    for section, settings in SETTINGS.items():
        given = document.get(section, {})
        if not isinstance(given, dict):
            raise UserError(f"{path}: {section} = {given!r}: expected a section, written [{section}].")
        _refuse_unknown(path, section, given, [*settings, "override"] if section == "judge" else settings)
        values = {key: _checked(path, section, key, given, settings[key]) for key in settings}
        sections[section] = SimpleNamespace(**values)
    overrides = _overrides(path, document.get("judge", {}).get("override", DEFAULT_OVERRIDES))
    config = Config(**sections, overrides=overrides, path=path)
    for section, call in [("generate", config.generator())] + [
            (f'judge.override."{model}"' if model in overrides else "judge", config.judge_call(model))
            for model in config.judge.models]:
        if call.max_tokens > call.max_tokens_cap:
            raise UserError(f"{_named(path)}: [{section}] max_tokens = {call.max_tokens}: expected at most "
                       f"max_tokens_cap, which is {call.max_tokens_cap}.")
    return config


def _overrides(path: Path | None, tables: object) -> dict[str, dict[str, object]]:
    if not isinstance(tables, dict):
        raise UserError(f"{_named(path)}: [judge] override = {tables!r}: expected tables such as "
                   '[judge.override."maker/model"].')
    checked = {}
    for model, given in tables.items():
        section = f'judge.override."{model}"'
        if not isinstance(given, dict):
            raise UserError(f"{_named(path)}: [{section}] = {given!r}: expected a table of settings.")
        _refuse_unknown(path, section, given, OVERRIDE_KEYS)
        checked[model] = {key: _checked(path, section, key, given, SETTINGS["judge"][key]) for key in given}
    return checked


def _checked(path: Path | None, section: str, key: str, given: dict, setting: Setting) -> object:
    value = given.get(key, setting.default)
    if not setting.accepts(value):
        raise UserError(f"{_named(path)}: [{section}] {key} = {value!r}: expected {setting.expects()}.")
    return float(value) if isinstance(setting.default, float) else value


def _refuse_unknown(path: Path | None, section: str, given: dict, known) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}."
            where = f"[{section}] has no key {key!r}" if section else f"there is no section [{key}]"
            raise UserError(f"{_named(path)}: {where}; {hint}")


def _named(path: Path | None) -> str:
    return str(path or "chain.toml")


# ----------------------------------------------------------------------------------------------------- environment

def load_environment() -> Environment:
    """Provider and mode from the environment, then ./.env, then the scripts' own .env. Raises UserError.

    A key is demanded only for a provider that is not on this machine: local servers mostly need none.
    """
    values = environment_values()
    base_url = (values.get("CHUTES_BASE_URL") or DEFAULT_BASE_URL).strip().rstrip("/")
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"CHUTES_BASE_URL = {base_url!r}: expected an address such as {DEFAULT_BASE_URL}.")
    try:
        place = urlsplit(base_url).netloc
    except ValueError:
        place = ""
    if not place:
        raise UserError(f"CHUTES_BASE_URL = {base_url!r}: expected an address such as {DEFAULT_BASE_URL}.")
    if "@" in place:
        raise UserError("CHUTES_BASE_URL holds a user or a password. Put the key into CHUTES_API_KEY, the address without it here.")
    api_key = (values.get("CHUTES_API_KEY") or "").strip()
    if not api_key and base_url == DEFAULT_BASE_URL:
        raise UserError("CHUTES_API_KEY is not set. Write it into .env here (copy .env.example), "
                   "or set CHUTES_BASE_URL to a server that needs no key.")
    if not api_key.isascii() or not api_key.isprintable():
        raise UserError("CHUTES_API_KEY holds characters that no key has. Copy it into .env again.")
    mode = (values.get("DUEL_MODE") or "2").strip()
    if mode not in ("1", "2"):
        raise UserError(f"DUEL_MODE = {mode!r}: expected 2 (challenger against king) or 1 (against the reference).")
    return Environment(base_url, api_key, int(mode))


def environment_values() -> dict[str, str | None]:
    """The environment over ./.env (else the scripts' own .env)."""
    path = _here_or_beside(".env")
    return {**(dotenv_values(path) if path else {}), **os.environ}


def _here_or_beside(name: str) -> Path | None:
    for folder in (Path("."), SCRIPTS_FOLDER):
        if (folder / name).is_file():
            return folder / name
    return None
