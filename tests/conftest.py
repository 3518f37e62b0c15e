"""What every test file has: the project on its path, and the fixtures that several files use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.demo.server import Server
from makers import REPLY
from runner import KEY


@pytest.fixture
def server():
    """The local server; every reply is REPLY, and it asks for the key."""
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        yield server
