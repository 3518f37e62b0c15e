"""What every test file has: the project on its path, fixtures, and tests that run beside others.

`@pytest.mark.background` (or `pytestmark = ...` for a file) starts a test on one of a few threads
as soon as the session starts: its stages mostly wait for a server's clock or fill one core. Its
outcome is shown after the other tests. It may take `tmp_path`, `server` and parameters.
"""

from __future__ import annotations

import inspect
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.demo.server import Server
from makers import REPLY
from runner import KEY

# No test speaks TLS, but every stage that calls reads all certificates twice: half of its CPU time.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("data") / "certificate.pem")
BACKGROUND_THREADS = 3
_outcomes: dict[pytest.Item, Future] = {}


def new_server() -> Server:
    """Return a local server whose every reply is REPLY, and which asks for the key."""
    return Server(reply=lambda body: REPLY, key=KEY)


@pytest.fixture
def server():
    with new_server() as server:
        yield server


def pytest_configure(config):
    config.addinivalue_line("markers", "background: run beside the other tests, see conftest.py")
    config.addinivalue_line("markers", "trainers: needs TRL or LLaMA-Factory, see test_trainers.py")


def pytest_collection_modifyitems(config, items):
    """Put those in the background last; leave out those marked `trainers` unless -m names them."""
    items.sort(key=lambda item: item.get_closest_marker("background") is not None)
    if "trainers" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("trainers")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def no_env_of_the_users_own(tmp_path_factory):
    """Work in an empty folder, below an empty .env: the search for one ends there.

    It stands above each `tmp_path`, too; `runner.start` sees to folders further down.
    """
    tmp_path_factory.getbasetemp().joinpath(".env").touch()
    os.chdir(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session", autouse=True)
def background_tests(request, tmp_path_factory, no_env_of_the_users_own):
    """Start all tests marked `background` that are to be run; a single test is left alone."""
    pool = ThreadPoolExecutor(BACKGROUND_THREADS)
    items = request.session.items
    for item in items if len(items) > 1 else []:
        arguments = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        fixtures = set(inspect.signature(item.function).parameters) - arguments.keys()
        if item.get_closest_marker("background") and fixtures <= {"tmp_path", "server"}:
            if "tmp_path" in fixtures:
                arguments["tmp_path"] = tmp_path_factory.mktemp(item.originalname)
            _outcomes[item] = pool.submit(run_test, item.function, arguments, "server" in fixtures)
    yield
    pool.shutdown(cancel_futures=True)


def run_test(test, arguments: dict, with_server: bool) -> None:
    """Run a test with a server of its own where it takes one."""
    if not with_server:
        test(**arguments)
        return
    with new_server() as server:
        test(server=server, **arguments)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Wait for a test that runs in the background; run all others here."""
    if pyfuncitem not in _outcomes:
        return None
    _outcomes.pop(pyfuncitem).result()
    return True
