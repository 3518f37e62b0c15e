"""What comes and is not what it seems: ends, cut prompts, full contexts, fields, prices.

Through king.py over HTTP; what a reply's text may hold is in test_protocol.py.
"""

from __future__ import annotations

import json

import pytest

from common.client.wire import read_completion
from common.config import METRICS, CallSettings, check_config
from common.demo.server import Reply, Server
from common.files import UserError
from makers import REPLY, answers, get, make_sample, put, write_settings
from runner import KEY, QUICK, stage
from test_night import Raw, failed_rows, say

pytestmark = pytest.mark.background

VERDICT = json.dumps({**dict.fromkeys(METRICS, 0), "correctness": 1, "reason": "x"})


def king(cwd, server, *flags, count: int = 1, **generate):
    """Run king.py over so many turns with two asks a reply at most."""
    if not (cwd / "prompt").exists():
        make_sample(cwd, count)
    write_settings(cwd, generate={**QUICK, "bad_reply_tries": 2, **generate})
    return stage("king.py", *flags, cwd=cwd, server=server)


@pytest.mark.parametrize(
    "ends, kept, words",
    [
        ("stop STOP eos eos_token end_turn stop_sequence COMPLETE FinishReason.STOP", True, ""),
        ("LENGTH max_tokens model_length model_context_window_exceeded", False, "cut off"),
        ("tool_use", False, "a tool call"),
        (
            "sensitive refusal SAFETY cancelled timeout repetition stopped_by_filter "
            "insufficient_system_resource unknown guardrail_intervened",
            False,
            "finish_reason",
        ),
    ],
)
def test_an_end_is_what_is_known_to_be_one(tmp_path, ends, kept, words):
    ends = ends.split()
    make_sample(tmp_path, len(ends))

    def reply(body):
        end = ends[int(body["messages"][1]["content"].split()[1].rstrip(":"))]
        usage = {"prompt_tokens": 99, "completion_tokens": body["max_tokens"]}
        return Reply(REPLY, finish_reason=end, usage=usage)

    with Server(reply=reply, key=KEY) as server:
        result = king(tmp_path, server)
    assert len(answers(tmp_path)) == (len(ends) if kept else 0), result.stdout
    assert len(server.chats) == len(ends) * (1 if kept else 2)
    rows = failed_rows(tmp_path)
    assert all(words in row["reason"] for row in rows)
    if words == "finish_reason":
        assert all(any(end in row["reason"] for row in rows) for end in ends)


@pytest.mark.parametrize(
    "reply, words",
    [
        (Reply(None, reasoning=REPLY), "empty: all that came is in reasoning_content"),
        (Reply("[THINK]" + REPLY), "which begins with [THINK]"),
        (Reply("\x1b[31m", finish_reason="\x1b[31m" + "x" * 999), "\\\\x1b[31mxxx"),
    ],
)
def test_no_answer_says_where_it_went(tmp_path, reply, words):
    with Server(reply=lambda body: reply, key=KEY) as server:
        result = king(tmp_path, server)
    assert result.returncode == 1 and words in failed_rows(tmp_path)[0]["reason"]
    assert len(failed_rows(tmp_path)[0]["kind"]) < 200 and "\x1b" not in result.stdout


def test_replies_that_mostly_open_alike_are_pointed_at(tmp_path):
    with Server(reply=lambda body: f"<cot>hm</cot>\n{REPLY}", key=KEY) as server:
        result = king(tmp_path, server, count=4)
    assert "4 of 4 replies of moonshotai/Kimi-K2.6-TEE begin with <cot>" in result.stdout
    assert [answer["king"] for answer in answers(tmp_path).values()] == [REPLY] * 4


# ------------------------------------------------------------------------- a context that is small

ENGLISH = "The parser drops the last field of a line, and nobody knows why it does. "
LANGUAGES = {
    "English": (ENGLISH, 4.6),
    "Chinese": ("解析器丢掉了每一行的最后一个字段。没有人知道为什么。", 2.0),
    "Hindi": ("पार्सर हर पंक्ति का आख़िरी फ़ील्ड छोड़ देता है, कोई नहीं जानता क्यों। ", 4.0),
    "Vietnamese": ("Bộ phân tích bỏ mất trường cuối của mỗi dòng, không ai biết tại sao. ", 3.4),
    "Thai": ("ตัวแยกวิเคราะห์ทิ้งฟิลด์สุดท้ายของแต่ละบรรทัดโดยไม่มีใครรู้สาเหตุ ", 3.5),
    "indented code": ("                return self.fields[-1]\n", 5.5),
    "rules and blanks": ("=" * 79 + "\n" + " " * 80 + "\n", 40.0),
    "base64": ("QmFzZTY0IGlzIG5vdCBhIGxhbmd1YWdlLg" * 3 + "\n", 2.0),
}


def of_chars(text: str, chars: int) -> str:
    return (text * (chars // len(text) + 1))[:chars]


def write_chats(folder, texts: list[str]) -> None:
    """Write a sample of so many turns, each with its text in the first user message."""
    make_sample(folder, len(texts))
    path = folder / f"prompt/prompts_{len(texts)}_1.json"
    prompts = get(path)
    for prompt, text in zip(prompts, texts):
        prompt["messages"][1]["content"] += text
    put(path, prompts)


def counting(tokens):
    """Return a reply rule that tells `tokens(characters of the chat)` as the prompt's."""

    def reply(body):
        chars = sum(len(message["content"]) for message in body["messages"])
        text = VERDICT if "judge" in body["messages"][0]["content"] else REPLY
        return Reply(text, usage={"prompt_tokens": tokens(chars), "completion_tokens": 60})

    return reply


@pytest.mark.parametrize("context", [2051, 4096])
def test_a_prompt_that_the_server_cut_is_a_failed_call(tmp_path, context):
    write_chats(
        tmp_path, [of_chars(ENGLISH, chars) for chars in (31_000, 600, 40_000)] + ["x" * 60_000]
    )
    with Server(counting(lambda chars: min(context, chars // 4)), key=KEY) as server:
        result = king(tmp_path, server)
        assert result.returncode == 1 and "does not answer" not in result.stderr
        assert len(server.chats) == 4, "one ask each"
    assert sorted(answers(tmp_path)) == ["prompts_4_1_2"]
    for row in failed_rows(tmp_path):
        assert "cut the prompt" in row["kind"] and "num_ctx" in row["reason"]
        assert f"{context:,} prompt tokens" in row["reason"] and "characters" in row["reason"]


@pytest.mark.parametrize("sizes", [(6_000, 14_000, 15_000, 300), (15_000, 6_000, 7_000, 300)])
def test_one_count_for_chats_of_every_length_is_a_cut_prompt(tmp_path, sizes):
    write_chats(tmp_path, [of_chars(ENGLISH, chars) for chars in sizes])
    with Server(counting(lambda chars: min(3000, chars)), key=KEY) as server:
        result = king(tmp_path, server, concurrency=1)
    assert result.returncode == 1
    assert {"prompts_4_1_2", "prompts_4_1_3"} == {row["item"] for row in failed_rows(tmp_path)}


def test_a_judge_whose_prompt_was_cut_gives_no_verdict(tmp_path):
    write_chats(tmp_path, [of_chars(ENGLISH, 31_000)])
    judge = {**QUICK, "models": ["a/b"]}
    with Server(counting(lambda chars: chars // 4), key=KEY) as server:
        assert king(tmp_path, server).returncode == 0
        server.reply = lambda body: REPLY.replace("-la", "-l")
        assert stage("ch.py", cwd=tmp_path, server=server).returncode == 0
        write_settings(tmp_path, judge=judge)
        server.reply = counting(lambda chars: 4096)
        before = len(server.chats)
        result = stage("validate.py", cwd=tmp_path, server=server)
        assert result.returncode == 1 and "cut the prompt" in result.stdout
        assert len(server.chats) <= before + 2
        assert not list(tmp_path.glob("score/prompts*.json")), "unfinished, not unread"
        server.reply = counting(lambda chars: chars // 4)
        assert stage("validate.py", cwd=tmp_path, server=server).returncode == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_language_is_taken_for_a_cut_prompt(tmp_path, language):
    text, chars_per_token = LANGUAGES[language]
    write_chats(tmp_path, [of_chars(text, 40_000)])
    with Server(counting(lambda chars: int(chars / chars_per_token)), key=KEY) as server:
        assert king(tmp_path, server).returncode == 0


def test_cached_tokens_that_are_counted_apart_are_no_cut_prompt(tmp_path):
    write_chats(tmp_path, [of_chars(ENGLISH, 40_000)] * 2)
    usage = {"prompt_tokens": 12, "completion_tokens": 30}
    usage["prompt_tokens_details"] = {"cached_tokens": 9000}
    with Server(lambda body: Reply(REPLY, usage=usage), key=KEY) as server:
        result = king(tmp_path, server)
    assert result.returncode == 0, result.stdout
    assert "18,024 in (18,000 cached)" in result.stdout


@pytest.mark.parametrize("completion, asks", [(41, 1), (1800, 1), (1990, 2), (None, 1)])
def test_cut_off_before_max_tokens_means_a_full_context(tmp_path, completion, asks):
    usage = {"prompt_tokens": 2007, "completion_tokens": completion}
    reply = Reply(REPLY[:30], finish_reason="length", usage=usage)
    with Server(reply=lambda body: reply, key=KEY) as server:
        result = king(tmp_path, server, max_tokens=2000, max_tokens_cap=2000)
    assert result.returncode == 1 and len(server.chats) == asks
    assert ("context is full" in failed_rows(tmp_path)[0]["reason"]) == (asks == 1)


@pytest.mark.parametrize("content, reasoning, asks", [("", "x" * 30, 2), ("é", "x" * 1900, 2)])
def test_what_came_without_usage_may_have_been_all_of_max_tokens(
    tmp_path, content, reasoning, asks
):
    reply = Reply(content, reasoning=reasoning, finish_reason="length", usage={"prompt_tokens": 9})
    with Server(reply=lambda body: reply, key=KEY) as server:
        king(tmp_path, server, max_tokens=2000, max_tokens_cap=2000)
    assert len(server.chats) == asks


def test_an_empty_stream_is_asked_once_without_one(tmp_path):
    make_sample(tmp_path, 6)
    long = ("Issue 2:", "Issue 4:")

    def fault(_, body):
        return "empty-stream" if body["messages"][-1]["content"].startswith(long) else None

    with Server(reply=lambda body: REPLY, key=KEY, faults=fault) as server:
        result = king(tmp_path, server)
    assert result.returncode == 1 and len(answers(tmp_path)) == 4
    chats = [chat for chat in server.chats if chat["body"]["messages"][-1]["content"] != "Hello"]
    assert len(chats) == 4 + 2 * 2
    assert all("131072 tokens" in row["reason"] for row in failed_rows(tmp_path))


def test_a_server_that_ends_one_stream_for_the_next_request(tmp_path):
    with Server(
        reply=lambda body: REPLY, key=KEY, stream_s=0.3, faults=lambda n, body: "one-at-a-time"
    ) as server:
        result = king(tmp_path, server, count=12, concurrency=32)
        assert len(answers(tmp_path)) == 12, result.stdout
        assert len(server.chats) < 48, "most calls come home"
    assert "set concurrency = 1 or stream = false" in result.stdout
    lists = [request for request in server.requests if request["path"] == "/v1/models"]
    assert lists[0]["started_at"] < server.chats[0]["started_at"], "no stream was running then"


# --------------------------------------------------------------------------- other makers' fields


def refusing(words: str, is_refused):
    """Return an answer for Raw: 400 with these words when `is_refused(body)`, else a reply."""
    choice = {"index": 0, "message": {"content": REPLY}, "finish_reason": "stop"}
    good = {"choices": [{**choice, "usage": {"prompt_tokens": 2_000, "completion_tokens": 300}}]}

    def answer(handler):
        body = json.loads(handler.body)
        refused = {"error": {"message": words}}
        status, said = (400, refused) if is_refused(body) else (200, good)
        say(status, json.dumps(said).encode(), f"X-Policy: {'x' * 15_000}")(handler)

    return answer


@pytest.mark.parametrize(
    "words, is_refused, keys, advice",
    [
        (
            "temperature and top_p cannot both be set",
            lambda body: {"temperature", "top_p"} <= body.keys(),
            {"omit": ["top_p"]},
            'omit = ["top_p"]',
        ),
        (
            "max_tokens is not supported with this model, use max_completion_tokens",
            lambda body: "max_tokens" in body,
            {"max_tokens_field": "max_completion_tokens"},
            'max_tokens_field = "max_completion_tokens"',
        ),
        (
            "unknown field: stream_options",
            lambda body: "stream_options" in body,
            {"omit": ["stream_options"]},
            "omit = ",
        ),
    ],
)
def test_a_refused_field_is_left_out_or_sent_by_its_other_name(
    tmp_path, words, is_refused, keys, advice
):
    prices = {"prompt": 0.5, "completion": 3}
    with Raw(refusing(words, is_refused)) as server:
        result = king(tmp_path, server, count=3)
        assert result.returncode == 2 and words in result.stderr and advice in result.stderr
        assert len(result.stderr.strip().splitlines()) <= 3
        # usage in choices[0], headers of 15 KB, and prices of one's own hold here, too
        king(tmp_path, server, **keys)
        text = (tmp_path / "chain.toml").read_text()
        (tmp_path / "chain.toml").write_text(text + "prices = { prompt = 0.5, completion = 3 }\n")
        for path in tmp_path.glob("answer_0/*"):
            path.unlink()
        dry = stage("king.py", "--dry-run", cwd=tmp_path, server=server)
        assert "about $0.02" in dry.stdout and "unknown" not in dry.stdout
        result = stage("king.py", "--max-cost", "0.02", cwd=tmp_path, server=server)
        assert result.returncode == 0, result.stderr
    cost = (2_000 * prices["prompt"] + 300 * prices["completion"]) / 1e6
    for answer in answers(tmp_path).values():
        assert answer["meta"]["king"]["cost_usd"] == pytest.approx(cost)
        assert not set(keys.get("omit", ())) & answer["meta"]["king"]["sampling"].keys()
    assert len(answers(tmp_path)) == 3


def test_what_is_left_out_asks_anew_and_a_name_or_a_price_does_not():
    plain = CallSettings(model="a/b").sampling()
    same = {"max_tokens_field": "max_completion_tokens", "prices": {"prompt": 1.0}, "omit": []}
    assert CallSettings(model="a/b", **same).sampling() == plain
    omitted = CallSettings(model="a/b", omit=["top_p", "top_k"], extra_body={"top_k": 1})
    assert omitted.sampling() == {"temperature": 1.0, "max_tokens": 16000}


@pytest.mark.parametrize(
    "table, words",
    [
        ({"omit": "top_p"}, "a valid list"),
        ({"max_tokens_field": "Max Tokens"}, "max_tokens_field"),
        ({"prices": {"prompt": 1}}, "expected { prompt = ..., completion = ... }"),
        ({"prices": {"prompt": -1, "completion": 1}}, "greater than or equal to 0"),
        ({"prices": {"input": 1, "completion": 1}}, "'prompt' or 'completion'"),
        ({"extra_body": {"max_completion_tokens": 5}}, "'max_completion_tokens' has no place"),
        ({"max_tokens_field": "most", "extra_body": {"most": 5}}, "'most' has no place"),
    ],
)
@pytest.mark.parametrize("place", ["generate", "judge", "override"])
def test_wrong_fields_and_prices_are_named(table, words, place):
    document = {place: table}
    if place == "override":
        document = {"judge": {"models": ["a/b"], "override": {"a/b": table}}}
    with pytest.raises(UserError) as stop:
        check_config(document)
    assert words in str(stop.value), stop.value


def test_an_override_adds_to_what_is_known_of_the_judges():
    kimi, qwen, deepseek = check_config({}).judge.models
    before = {model: check_config({}).judge_call(model) for model in (kimi, qwen, deepseek)}
    own = {kimi: {"top_p": 0.9}, deepseek: {"concurrency": 2}}
    config = check_config({"judge": {"override": own}})
    assert config.judge_call(qwen) == before[qwen]
    assert config.judge_call(kimi) == before[kimi].model_copy(update={"top_p": 0.9})
    assert config.judge_call(deepseek) == before[deepseek].model_copy(update={"concurrency": 2})


def test_usage_of_the_whole_reply_goes_over_that_of_a_choice():
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "usage": usage}
    whole = {**usage, "prompt_tokens": 7}
    odd = {"reasoning_tokens": -1, "prompt_tokens_details": {"cached_tokens": 1.0}}
    for more, prompt in (({}, 5), ({"usage": whole}, 7), ({"usage": {**whole, **odd}}, 7)):
        body = json.dumps({"choices": [choice], **more}).encode()
        assert read_completion(body).usage["prompt_tokens"] == prompt
