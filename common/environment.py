"""The environment over .env: the providers with their keys, the way to them, the duel's mode."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from common import config
from common.config import CallSettings, Config, Provider
from common.files import UserError


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


def load_environment(settings: Config, calls: Iterable[CallSettings]) -> Environment:
    """Return the mode, and the providers that `calls` go to. Raises UserError."""
    values = environment_values()
    mode = values.get("DUEL_MODE") or "2"
    if mode not in ("1", "2"):
        modes = "2 (challenger against king) or 1 (against the reference)"
        raise UserError(f"DUEL_MODE = {mode[:40]!r}: expected {modes}.")
    own_url = values.get("CHUTES_BASE_URL") or config.DEFAULT_BASE_URL
    own = Provider(base_url=own_url, key_env="CHUTES_API_KEY")
    endpoints = {}
    for name in {call.provider for call in calls}:
        provider = settings.provider[name] if name else own
        key = provider.key_env
        place = f"[provider.{name}] base_url in chain.toml"
        if not name:
            place = "CHUTES_BASE_URL in .env"
            config.check_address(own_url, "CHUTES_BASE_URL", key)
        base_url = provider.base_url.strip().rstrip("/")
        check_way_out(base_url)
        api_key = values.get(key, "")
        if not api_key.isascii() or not api_key.isprintable():
            raise UserError(f"{key} holds characters that no key has. Copy it anew.")
        # Local servers mostly need no key: one is asked for where it is named, and for Chutes.
        if not api_key and key and (name or base_url == config.DEFAULT_BASE_URL):
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
    path = config.find_setting_file(".env")
    values = {}
    if path is not None:
        from dotenv import dotenv_values  # here, because many machines have no .env

        try:
            values = dotenv_values(path, encoding="utf-8-sig")
        except UnicodeDecodeError:
            words = "not UTF-8 (UTF-16 or Latin-1?). Save it as UTF-8."
            raise UserError(f"{path}: {words}") from None
    return {name: (value or "").strip() for name, value in {**values, **os.environ}.items()}
