"""The names of makers.py and runner.py in one place, until the last test imports from those."""

from makers import (  # noqa: F401
    REPLY,
    answers,
    make_prompt,
    make_record,
    make_sample,
    write_settings,
)
from runner import KEY, QUICK, REPO, assert_no_key, clean_environment, stage, start  # noqa: F401
