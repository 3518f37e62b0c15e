"""chain.toml and the environment: one home for the defaults; errors say what to write instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.config import DEFAULT_OVERRIDES, Config, check_config, load_config, load_environment
from common.files import UserError
from runner import REPO, stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_the_committed_chain_toml_equals_the_defaults():
    document = tomllib.loads((REPO / "chain.toml").read_text())
    overrides = document["judge"].pop("override")
    assert document == Config().model_dump(exclude={"judge": {"override"}})
    assert overrides == DEFAULT_OVERRIDES
    assert check_config(tomllib.loads((REPO / "chain.toml").read_text())) == check_config({})


def test_every_key_is_commented_where_it_first_stands():
    for line in (REPO / "chain.toml").read_text().split("[judge]")[0].splitlines():
        assert not line or "#" in line, line


@pytest.mark.parametrize(
    "text, words",
    [
        ('[judge]\ntemperature = "hot"', ["[judge] temperature = 'hot'", "a valid number"]),
        (
            "[judge]\ntempratur = 0.5",
            ["[judge] has no key 'tempratur'", "did you mean 'temperature'?"],
        ),
        ("[juge]\ntemperature = 0.5", ["has no key 'juge'", "did you mean 'judge'?"]),
        ("[duel]\nalpha = 0.9", ["[duel] alpha = 0.9", "less than or equal to 0.5"]),
        ("[duel]\nresamples = true", ["[duel] resamples = True", "a valid integer"]),
        ("[judge]\nmodels = []", ["[judge] models = []", "at least 1 item"]),
        ('[judge]\nmodels = ["a/b", "a/b"]', ["none twice"]),
        ('[judge]\nmodels = "a/b"', ["[judge] models", "a valid list"]),
        ("[generate]\nmax_tokens = 70000", ["[generate] max_tokens = 70000", "max_tokens_cap"]),
        (
            '[judge.override."a/b"]\nwin_margin = 1',
            ['[judge.override."a/b"] has no key', "temperature"],
        ),
        (
            '[judge.override."a/b"]\nstall_s = 0',
            ['[judge.override."a/b"] stall_s = 0', "equal to 0.1"],
        ),
        ("[generate]\nstream = 1", ["[generate] stream = 1", "a valid boolean"]),
        ("[generate\nmodel = 1", ["not valid TOML"]),
        ("[confirm]\nband = [90, 73]", ["[confirm] band = [90", "the lower score first"]),
        ("[duel]\nalpha = 0.001\nresamples = 998", ["resamples = 998: expected", "999 or more"]),
        ("[generate]\nextra_body = {model = 1}", ["[generate] extra_body: 'model'"]),
        (
            '[generate]\nomit = ["top_k", "seed", "top_p"]',
            ["[generate] omit: 'seed' is no", "such are stream_options, temperature, top_k, top_p"],
        ),
        (
            '[judge]\nmax_tokens_field = "model"',
            ["[judge] max_tokens_field = 'model'", "'max_completion_tokens'"],
        ),
        ("generate = 5", ["generate = 5", "a valid dictionary"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    Path("chain.toml").write_text(text)
    with pytest.raises(UserError) as stop:
        load_config()
    assert str(stop.value).startswith("chain.toml: ")
    for word in words:
        assert word in str(stop.value)


def test_a_judges_own_table_goes_over_the_section():
    config = check_config(
        tomllib.loads(
            '[judge]\nmodels = ["a/b", "c/d"]\ntemperature = 0.2\n'
            '[judge.override."c/d"]\ntemperature = 1\nextra_body = {top_k = 20}'
        )
    )
    assert config.judge_call("a/b").sampling()["temperature"] == 0.2
    assert config.judge_call("c/d").sampling() == {
        "temperature": 1.0,
        "top_p": 0.95,
        "max_tokens": 16000,
        "top_k": 20,
    }


def load_own():
    """Load what king.py does with the defaults."""
    return load_environment(Config(), [Config().generate])


@pytest.fixture
def empty_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CHUTES_API_KEY", "CHUTES_BASE_URL", "DUEL_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_dot_env_is_read_from_here_and_the_environment_goes_over_it(empty_environment, monkeypatch):
    Path(".env").write_text("CHUTES_API_KEY=cpk_from_file\nDUEL_MODE=1\n")
    environment = load_own()
    assert (environment.providers[""].api_key, environment.duel_mode) == ("cpk_from_file", 1)
    assert environment.providers[""].base_url == "https://llm.chutes.ai/v1"
    assert "cpk_from_file" not in repr(environment)
    monkeypatch.setenv("DUEL_MODE", "2")
    assert load_own().duel_mode == 2


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("DUEL_MODE", "3", "DUEL_MODE = '3'"),
        ("CHUTES_BASE_URL", "llm.chutes.ai", "CHUTES_BASE_URL = 'llm.chutes.ai'"),
        ("CHUTES_API_KEY", "cpk_ü", "CHUTES_API_KEY holds"),
        ("CHUTES_API_KEY", "", "CHUTES_API_KEY is not set"),
    ],
)
def test_a_wrong_environment_is_named(empty_environment, monkeypatch, name, value, words):
    monkeypatch.setenv("CHUTES_API_KEY", "cpk_x")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        load_own()


@pytest.mark.parametrize("start", ["# clé\n", ""])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_dot_env_that_is_not_utf_8_is_named(empty_environment, encoding, start):
    text = f"{start}CHUTES_API_KEY=cpk_é\n" if encoding == "latin-1" else f"{start}A=b\n"
    Path(".env").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=".env: not UTF-8"):
        load_own()


def test_byte_order_marks_are_passed_over(empty_environment):
    Path(".env").write_bytes(b"\xef\xbb\xbfCHUTES_API_KEY=cpk_x\n")
    Path("chain.toml").write_bytes(b"\xef\xbb\xbf[judge]\ntemperature = 0.3\n")
    assert load_own().providers[""].api_key == "cpk_x"
    assert load_config().judge.temperature == 0.3


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, "a = " + "9" * 6000, "a = '\x1b[31m'"])
def test_an_odd_chain_toml_is_told_in_a_line(empty_environment, text):
    Path("chain.toml").write_text(text)
    with pytest.raises(UserError) as stop:
        load_config()
    assert "\x1b" not in str(stop.value) and len(str(stop.value)) < 300


@pytest.mark.parametrize(
    "address", ["http://h:99999/v1", "http://h:x/v1", "http://[::1/v1", "http:///v1"]
)
def test_an_address_with_a_bad_port_or_host_is_named(empty_environment, monkeypatch, address):
    monkeypatch.setenv("CHUTES_BASE_URL", address)
    with pytest.raises(UserError, match="expected an address"):
        load_own()


def test_a_limit_of_many_digits_is_told_in_a_line(tmp_path):
    result = stage("king.py", "--limit", "9" * 23, cwd=tmp_path)
    assert result.returncode == 2 and "of at most 18 digits" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_alpha_with_one_rank_is_enough():
    assert check_config({"duel": {"alpha": 0.001, "resamples": 999}}).duel.resamples == 999
