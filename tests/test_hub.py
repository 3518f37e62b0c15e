"""common/sampling/hub.py: byte ranges of a Hub that misbehaves on order, refusals in words."""

from __future__ import annotations

import random

import pytest

from common.files import ItemFailed, UserError
from common.sampling import hub as hub_module
from common.sampling.hub import Hub
from tests.hub import FakeHub, write_datasets

NAME = "acme/trajectories"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder, instances=12, files=2)
    return folder


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No variable of the user's own, and a list of the waits in place of waiting."""
    for name in (*hub_module.TOKENS, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    waits = []
    monkeypatch.setattr(hub_module.time, "sleep", waits.append)  # also of huggingface_hub
    return waits


def opened(fake: FakeHub, monkeypatch, asked: str | None = None, name: str = NAME, **variables):
    for variable, value in {"HF_ENDPOINT": fake.url, **variables}.items():
        monkeypatch.setenv(variable, value)
    return Hub("--dataset", name, asked)


def read(hub: Hub, file: str, start: int, end: int) -> bytes:
    with hub.open(file) as remote:
        remote.seek(start)
        return remote.read(end - start)


def refusal(*args, **variables) -> str:
    with pytest.raises(UserError) as told:
        opened(*args, **variables)
    assert len(str(told.value).splitlines()) <= 2
    return str(told.value)


@pytest.mark.parametrize(
    "faults", [{}, {"503": 0.1, "429": 0.1}, {"cut": 0.2, "short": 0.2}, {"whole": 0.3}]
)
def test_ranges_are_whole_whatever_comes(data, monkeypatch, faults):
    with FakeHub(data, seed=2) as fake:
        hub = opened(fake, monkeypatch)
        fake.faults = faults
        chance = random.Random(1)
        asked = 0
        for file, size in hub.files.items():
            body = (data / NAME / file).read_bytes()
            assert len(body) == size
            for _ in range(15):
                start = chance.randrange(size)
                end = chance.randrange(start, size + 1)
                assert read(hub, file, start, end) == body[start:end]
                asked += end - start
        if not faults:
            assert fake.sent() == asked


def test_it_waits_and_gives_up_in_the_end(data, monkeypatch, waits):
    with FakeHub(data) as fake:
        hub = opened(fake, monkeypatch)
        fake.dies_after = 0
        with pytest.raises(ItemFailed, match="does not answer well"):
            read(hub, next(iter(hub.files)), 0, 100)
        assert 30 < sum(waits) < 120
    for address in ("http://127.0.0.1:9", "huggingface.co"):  # nothing listens; no address
        waits.clear()
        with pytest.raises(UserError, match="cannot be reached"):
            opened(fake, monkeypatch, HF_ENDPOINT=address)
        assert len(waits) == 1


def test_refusals_are_told_in_plain_words(data, monkeypatch):
    with FakeHub(data, token="hf_right", gated=("acme/prs",)) as fake:
        told = refusal(fake, monkeypatch)
        assert "--dataset acme/trajectories" in told and "HF_TOKEN" in told
        told = refusal(fake, monkeypatch, HUGGINGFACE_API_KEY="hf_wrong")
        assert "HUGGINGFACE_API_KEY may be expired" in told
        told = refusal(fake, monkeypatch, HF_TOKEN="hf_secret_wrong")
        assert "HF_TOKEN may be expired" in told and "hf_secret" not in told
        assert "no token has" in refusal(fake, monkeypatch, HF_TOKEN="hf_a\tb")
        hub = opened(fake, monkeypatch, name="acme/prs", HF_TOKEN="hf_right")
        with pytest.raises(UserError, match=r"acme/prs.*\n.*gated.*accept its terms"):
            read(hub, next(iter(hub.files)), 0, 9)
    with FakeHub(data) as fake:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.delenv("HUGGINGFACE_API_KEY")
        assert "no such revision" in refusal(fake, monkeypatch, "v9")
        assert "check the name" in refusal(fake, monkeypatch, name="acme/none")
