"""More than one provider: [provider.NAME] in chain.toml, by king.py, ch.py and validate.py."""

from __future__ import annotations

import json

import pytest

from common.config import METRICS, check_config, load_environment
from common.demo.server import Reply, Server
from common.files import UserError
from makers import REPLY, answers, make_run, make_sample
from runner import KEY, assert_no_key, stage

pytestmark = pytest.mark.background

OTHER_KEY = "sk-other-secret-9876543210"
VERDICT = json.dumps({**dict.fromkeys(METRICS, 0), "correctness": 1, "reason": "x"})
JUDGES = {"a/near": (131_072, 32_768, 1.0, 1.0), "b/far": (131_072, 32_768, 2.0, 2.0)}


def settings(cwd, server, judge: str = "", more: str = "") -> None:
    """Write chain.toml: a writer and one judge at `server`, the other judge as .env says."""
    (cwd / "chain.toml").write_text(
        '[generate]\nprovider = "other"\nmodel = "m/writer"\n'
        f'[judge]\nmodels = ["a/near", "b/far"]\n{judge}\n'
        '[judge.override."b/far"]\nprovider = "other"\n'
        f'[provider.other]\nbase_url = "{server.url}/"\nkey_env = "OTHER_KEY"\n{more}'
    )


def test_each_model_is_asked_where_it_is(tmp_path):
    make_sample(tmp_path, 3)
    near = Server(reply=lambda body: VERDICT, key=KEY, models=JUDGES)
    far = Server(
        reply=lambda body: {"m/writer": REPLY}.get(body["model"], VERDICT),
        key=OTHER_KEY,
        models={"m/writer": (1000, 100, 1.0, 1.0), **JUDGES},
    )
    with near, far:
        settings(tmp_path, far)
        (tmp_path / ".env").write_text(f"OTHER_KEY={OTHER_KEY}\n")
        king = stage("king.py", cwd=tmp_path)  # the writer's key is all that it needs
        assert king.returncode == 0, king.stderr
        far.reply = lambda body: VERDICT if body["model"] == "b/far" else REPLY.replace("-la", "-l")
        assert stage("ch.py", cwd=tmp_path).returncode == 0
        assert near.chats == [] and {chat["body"]["model"] for chat in far.chats} == {"m/writer"}

        missing = stage("validate.py", cwd=tmp_path)
        assert missing.returncode == 2 and "CHUTES_API_KEY is not set" in missing.stderr
        judged = stage("validate.py", cwd=tmp_path, server=near)
        assert judged.returncode == 0, judged.stderr
        assert {chat["body"]["model"] for chat in near.chats} == {"a/near"}
        assert len(near.chats) == 6 and len(far.chats) == 3 + 3 + 6
        # Moving a judge asks for nothing anew.
        chain = (tmp_path / "chain.toml").read_text()
        (tmp_path / "chain.toml").write_text(
            chain.replace("[judge]\n", '[judge]\nprovider = "other"\n')
        )
        assert stage("validate.py", cwd=tmp_path).returncode == 0
        assert len(near.chats) == 6 and len(far.chats) == 12
    for path in tmp_path.rglob("*.json*"):
        assert OTHER_KEY not in path.read_text()
    assert_no_key(tmp_path, king.stdout, king.stderr, judged.stdout, judged.stderr)


def test_the_second_look_may_be_elsewhere():
    text = {
        "confirm": {"models": ["c/d", "e/f"], "provider": "far"},
        "judge": {"provider": "near", "override": {"e/f": {"provider": "near"}}},
        "provider": {name: {"base_url": "http://127.0.0.1:1/v1"} for name in ("near", "far")},
    }
    config = check_config(text)
    assert [config.confirm_call(model).provider for model in ("c/d", "e/f")] == ["far", "near"]
    assert config.judge_call("c/d").provider == "near"
    assert config.judge_call("c/d").sampling() == config.confirm_call("c/d").sampling()
    assert set(load_environment(config, [config.judge_call("c/d")]).providers) == {"near"}


def test_one_model_without_a_price_hides_no_others_sum(tmp_path):
    make_run(tmp_path, [0] * 3)
    unpriced = {"b/far": (1000, 100, -1, float("nan"))}
    with (
        Server(reply=lambda body: VERDICT, key=KEY, models=JUDGES) as near,
        Server(reply=lambda body: VERDICT, models=unpriced) as far,
    ):
        settings(tmp_path, far)
        dry = stage("validate.py", "--dry-run", cwd=tmp_path, server=near, OTHER_KEY="x")
        assert dry.returncode == 0, dry.stderr
        lines = dry.stdout.splitlines()
        assert any("a/near" in line and "$" in line for line in lines)
        assert any("b/far" in line and "price unknown" in line for line in lines)
        assert "calls of unknown price" in dry.stdout and "all: 12 calls, about $" in dry.stdout
        capped = stage("validate.py", "--max-cost", "1", cwd=tmp_path, server=near, OTHER_KEY="x")
        assert capped.returncode == 2 and "no price for b/far" in capped.stderr
        assert far.chats == []


def test_advice_names_the_provider_that_refused(tmp_path):
    make_sample(tmp_path, 3)
    with Server(reply=lambda body: REPLY, key=OTHER_KEY) as far:
        settings(tmp_path, far)
        wrong = "sk-wrong-secret-111111"
        result = stage("king.py", cwd=tmp_path, OTHER_KEY=wrong)
        assert result.returncode == 2 and "Check OTHER_KEY in .env" in result.stderr
        assert "[provider.other] base_url" in result.stderr and wrong not in result.stderr
        assert stage("king.py", cwd=tmp_path).stderr.startswith("king.py: OTHER_KEY is not set")
        assert answers(tmp_path) == {}


@pytest.mark.parametrize(
    "document, words",
    [
        ({"generate": {"provider": "x"}}, "[generate] provider = 'x': there is no section"),
        ({"confirm": {"models": ["a/b"], "provider": "x"}}, "[confirm] provider = 'x'"),
        ({"provider": {"x": {"base_url": "nowhere"}}}, "[provider.x] base_url = 'nowhere'"),
        ({"provider": {"x": {}}}, "[provider.x] base_url is missing"),
        ({"provider": {"x": {"base_url": "http://h/v1", "key": "k"}}}, "has no key 'key'"),
        ({"provider": {"x": {"base_url": "http://u:p@h/v1"}}}, "Put the key into key_env"),
        ({"provider": {"x": {"base_url": "http://h:99999/v1"}}}, "expected an address"),
    ],
)
def test_a_wrong_provider_is_named(document, words):
    with pytest.raises(UserError) as stop:
        check_config(document)
    assert words in str(stop.value)


def test_a_key_in_the_place_of_its_name_is_not_shown():
    with pytest.raises(UserError) as stop:
        check_config({"provider": {"x": {"base_url": "http://h/v1", "key_env": OTHER_KEY}}})
    assert OTHER_KEY not in str(stop.value) and "never the key itself" in str(stop.value)


def test_a_key_that_a_reply_echoes_is_masked(tmp_path):
    make_sample(tmp_path, 1)
    echo = Reply(REPLY + KEY, model=f"model of {KEY}", headers={"X-Request-ID": KEY})
    with Server(reply=lambda body: echo, key=KEY, events=200) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode in (0, 1)
    assert_no_key(tmp_path)
    (answer,) = answers(tmp_path).values()
    assert answer["meta"]["king"]["model_answered"] == "model of [key]"
