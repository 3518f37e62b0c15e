"""The environment (.env) for secrets and machines: the providers, their keys, the mode."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO

from dotenv import dotenv_values

from common import config as settings
from common.files import UserError


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


def load_environment(
    config: settings.Config, calls: Iterable[settings.CallSettings]
) -> Environment:
    """Return the mode, and the providers that `calls` go to. Raises UserError.

    A key is demanded only where it is known to be needed: local servers mostly need none.
    """
    values = environment_values()
    base_url = (values.get("CHUTES_BASE_URL") or settings.DEFAULT_BASE_URL).strip()
    known = dict(config.provider)
    known[""] = settings.Provider(base_url=base_url, key_env="CHUTES_API_KEY")
    providers = {}
    for name in {call.provider for call in calls}:
        base_url = known[name].base_url.strip().rstrip("/")
        key_name = known[name].key_env
        if name:
            url_place = f"[provider.{name}] base_url in chain.toml"
            needs_key = key_name != ""
        else:
            settings.check_address(base_url, "CHUTES_BASE_URL", "CHUTES_API_KEY")
            url_place = "CHUTES_BASE_URL in .env"
            needs_key = base_url == settings.DEFAULT_BASE_URL
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
    path = settings.find_setting_file(".env")
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path else ""
    if "\0" in text or "\ufffd" in text:
        raise UserError(f"{path}: not UTF-8 (UTF-16 or Latin-1?). Save it as UTF-8.")
    return {**dotenv_values(stream=StringIO(text)), **os.environ}
