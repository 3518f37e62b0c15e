"""The client, through king.py and ch.py over HTTP, against a server that misbehaves on order."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common.client.faults import Fault
from common.client.run import Spending
from common.client.wire import read_completion
from common.config import METRICS
from common.demo.server import Reply, Server
from makers import REPLY, answers, make_sample, write_settings
from runner import KEY, QUICK, REPO, assert_no_key, clean_environment, stage, start

pytestmark = pytest.mark.background

TRANSIENT = (
    "429 429-retry-after 408 409 500 502-html 503 524 200-html 200-error no-choices empty-choices "
    "error-line error-event cut-stream no-finish stall reset"
).split()
BAD_REPLIES = ["length-empty", "length-cut", "empty", "tool-tokens", "tool-tokens-late"]


def kings(cwd) -> list[str]:
    return [answer["king"] for answer in answers(cwd).values()]


def first_try(faults: dict[int, str]):
    """Return faults by the number in the prompt (`Issue N`), each on its first try alone."""
    seen = Counter()

    def fault(_, body: dict) -> str | None:
        number = int(body["messages"][1]["content"].split()[1].rstrip(":"))
        seen[number] += 1
        return faults.get(number) if seen[number] == 1 else None

    return fault


# ----------------------------------------------------------------------------------- sorting faults


def test_every_transient_fault_alone_costs_nothing_but_time(tmp_path):
    # What slows a model down comes last: its first calls are let out one by one.
    names = BAD_REPLIES + TRANSIENT[::-1]
    make_sample(tmp_path, len(names))
    write_settings(tmp_path, generate={**QUICK, "stall_s": 0.5})
    with Server(
        reply=lambda body: REPLY, key=KEY, faults=first_try(dict(enumerate(names))), stall_s=30
    ) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stdout + result.stderr
    assert kings(tmp_path) == [REPLY] * len(names)
    struck = Counter(request["fault"] for request in server.chats if request["fault"])
    assert set(struck) == set(names), "each fault was really served"
    assert len(server.chats) == 2 * len(names)


def test_a_mix_in_which_45_percent_of_first_tries_fail(tmp_path):
    make_sample(tmp_path, 40)
    write_settings(tmp_path, generate=QUICK)
    chance, seen = random.Random(5), set()

    def fault(_, body):
        chat = body["messages"][-1]["content"]
        rate = 0.2 if chat in seen else 0.45
        seen.add(chat)
        return (
            chance.choice(TRANSIENT + BAD_REPLIES + ["400-context", "content-filter"])
            if chance.random() < rate
            else None
        )

    with Server(reply=lambda body: REPLY, key=KEY, faults=fault, stall_s=30) as server:
        for _ in range(3):
            result = stage("king.py", cwd=tmp_path, server=server)
            assert "Traceback" not in result.stderr
            if result.returncode == 0:
                break
    assert result.returncode == 0
    assert kings(tmp_path) == [REPLY] * 40
    assert_no_key(tmp_path, result.stdout, result.stderr)


@pytest.mark.parametrize(
    "fault, words, most_calls",
    [
        ("401", ["Can't find a user", "CHUTES_API_KEY"], 2),  # a one-word chat is refused alike
        ("402", ["Quota exceeded", "balance"], 1),
        ("403", ["not allowed", "model"], 2),
        ("404", ["model not found", "chain.toml"], 2),
        ("429-spam", ["Stop spamming"], 1),
        ("400-param", ["temperature must be 1", "chain.toml"], 3),
    ],
)
def test_a_configuration_fault_stops_the_run_at_once(tmp_path, fault, words, most_calls):
    make_sample(tmp_path, 40)
    with Server(reply=lambda body: REPLY, key=KEY, faults=lambda n, body: fault) as server:
        result = stage("king.py", "--concurrency", "16", cwd=tmp_path, server=server)
    assert result.returncode == 2
    assert len(server.chats) <= most_calls
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 3
    assert answers(tmp_path) == {}
    assert_no_key(tmp_path, result.stdout, result.stderr)


def test_an_items_own_fault_fails_that_item_and_no_other(tmp_path):
    make_sample(tmp_path, 12)
    seen = Counter()

    def fault(_, body):
        chat = body["messages"][-1]["content"]
        seen[chat] += 1
        return (
            {"Issue 3:": "400-context", "Issue 7:": "content-filter"}.get(chat[:8])
            if seen[chat] == 1
            else None
        )

    with Server(reply=lambda body: REPLY, key=KEY, faults=fault) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
        assert result.returncode == 1
        assert set(seen.values()) == {1}, "neither is tried again within the run"
        before = len(server.chats)
        lines = (tmp_path / "answer_0/_failed.jsonl").read_text().splitlines()
        failed = {row["item"]: row["reason"] for row in map(json.loads, lines)}
        assert "131072" in failed["prompts_12_1_4"] and "content filter" in failed["prompts_12_1_8"]
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
        assert len(server.chats) == before + 2
    assert len(answers(tmp_path)) == 12 and not (tmp_path / "answer_0/_failed.jsonl").exists()


def test_a_dead_endpoint_ends_in_bounded_time_with_one_line(tmp_path):
    make_sample(tmp_path, 30)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0})
    started = time.monotonic()
    result = stage(
        "king.py", cwd=tmp_path, CHUTES_BASE_URL="http://127.0.0.1:9/v1", CHUTES_API_KEY=KEY
    )
    assert result.returncode == 1 and time.monotonic() - started < 40
    assert "does not answer" in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("does not answer") == 1


def test_an_endpoint_that_dies_midway_keeps_what_came(tmp_path):
    make_sample(tmp_path, 40)
    write_settings(tmp_path, generate={**QUICK, "outage_s": 2.0, "concurrency": 4})
    with Server(
        reply=lambda body: REPLY, key=KEY, faults=lambda n, body: "503" if n > 10 else None
    ) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
        assert result.returncode == 1 and "does not answer" in result.stderr
        assert len(answers(tmp_path)) == 10
        assert len(server.chats) < 40, "no hammering of a server that is down"
        assert "1 one-word probe: server trouble (503)" in result.stdout


def test_one_judge_that_is_out_does_not_hold_up_the_others(tmp_path):
    make_sample(tmp_path, 6)
    write_settings(
        tmp_path, generate=QUICK, judge={**QUICK, "models": ["a/well", "b/out"], "outage_s": 1.0}
    )
    call = json.dumps({**dict.fromkeys(METRICS, 0), "correctness": 1, "reason": "x"})
    replies = {"king.py": REPLY, "ch.py": REPLY.replace("-la", "-l"), "validate.py": call}
    for script, reply in replies.items():
        with Server(
            reply=lambda body, reply=reply: reply,
            key=KEY,
            faults=lambda n, body: "503" if body["model"] == "b/out" else None,
        ) as server:
            result = stage(script, cwd=tmp_path, server=server)
    assert result.returncode == 1
    assert "The other models go on" in result.stderr and "Traceback" not in result.stderr
    for path in tmp_path.glob("score/prompts*.json"):
        score = json.loads(path.read_text())
        assert score["status"] == "unfinished"
        assert [verdict["judge"] for verdict in score["verdicts"]] == ["a/well", "a/well"]
    assert len(list(tmp_path.glob("score/prompts*.json"))) == 6
    with Server(reply=lambda body: call, key=KEY) as server:
        assert stage("validate.py", cwd=tmp_path, server=server).returncode == 0
    assert len(server.chats) == 12, "only the verdicts of the judge that was out"


def test_the_providers_words_are_shown_without_the_key(tmp_path):
    class Echo(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.dumps({"detail": f"no such user: {self.headers['Authorization']}"}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    make_sample(tmp_path, 2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    result = stage(
        "king.py",
        cwd=tmp_path,
        CHUTES_API_KEY=KEY,
        CHUTES_BASE_URL=f"http://127.0.0.1:{server.server_address[1]}/v1",
    )
    server.shutdown()
    assert result.returncode == 2 and "no such user: Bearer [key]" in result.stderr
    assert_no_key(tmp_path, result.stdout, result.stderr)


# --------------------------------------------------------------------------------------------- pace


def test_a_server_that_allows_eight_sees_few_429s(tmp_path):
    make_sample(tmp_path, 250)
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.05, max_in_flight=8) as server:
        result = stage("king.py", "--concurrency", "200", cwd=tmp_path, server=server)
    assert result.returncode == 0 and len(answers(tmp_path)) == 250
    assert len(server.chats) - 250 <= 25, "at most a tenth of the calls meet a 429"
    assert server.peak_in_flight >= 6, "and the room that there is gets used"


def test_retry_after_holds_for_the_whole_model(tmp_path):
    make_sample(tmp_path, 30)
    with Server(
        reply=lambda body: REPLY,
        key=KEY,
        latency_s=0.02,
        faults=lambda n, body: "429-retry-after" if n == 9 else None,
    ) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    struck = next(request for request in server.chats if request["fault"])
    until = struck["started_at"] + 1.0
    in_the_pause = [
        r for r in server.chats if struck["started_at"] + 0.1 < r["started_at"] < until - 0.05
    ]
    assert in_the_pause == []


# ---------------------------------------------------------------------------------------- reasoning


def test_only_the_answer_is_kept(tmp_path):
    faults = ["think", "think-unopened", "reasoning", "crlf", "not-stream"]
    make_sample(tmp_path, len(faults))
    reply = "THOUGHT: naïve – 你好 🙂\n\n```bash\nls -la\n```"
    with Server(
        lambda body: Reply(reply), key=KEY, faults=first_try(dict(enumerate(faults)))
    ) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert {request["fault"] for request in server.chats} == set(faults)
    assert kings(tmp_path) == [reply] * len(faults)


def test_a_reply_that_reasoning_starved_gets_more_tokens_up_to_the_cap(tmp_path):
    make_sample(tmp_path, 1)
    write_settings(
        tmp_path,
        generate={**QUICK, "max_tokens": 3000, "max_tokens_cap": 20000, "bad_reply_tries": 8},
    )
    with Server(
        reply=lambda body: REPLY,
        key=KEY,
        faults=lambda n, body: "length-empty",
        length_enough=18000,
    ) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert [request["body"]["max_tokens"] for request in server.chats] == [3000, 6000, 12000, 20000]
    (answer,) = answers(tmp_path).values()
    assert (
        answer["meta"]["king"]["sampling"]["max_tokens"] == 20000
        and answer["meta"]["king"]["tries"] == 4
    )


def test_a_reply_of_raw_tool_tokens_is_never_stored(tmp_path):
    make_sample(tmp_path, 3)
    write_settings(tmp_path, generate={**QUICK, "bad_reply_tries": 2})
    with Server(
        reply=lambda body: REPLY, key=KEY, faults=lambda n, body: "tool-tokens-late"
    ) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1 and answers(tmp_path) == {} and len(server.chats) == 6
    assert "tool-call" in result.stdout


def event(**choice) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


END = event(index=0, delta={}, finish_reason="stop") + b"data: [DONE]\n\n"
A = event(delta={"content": "a"})
PARTS = [{"type": "text", "text": "a"}, {"type": "thinking", "text": "b"}]


@pytest.mark.parametrize(
    "body",
    [
        event(delta={"role": "assistant", "content": None}) + A + END,
        b"data:" + A[6:] + END,
        b"\xef\xbb\xbf" + A + b"data:\n\n: wait\nevent: x\n" + END,
        event(message={"content": "a"}) + END,
        A + event(index=1, delta={"content": "junk"}) + END,
        event(delta={"content": PARTS}) + END,
        A + b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n' + END,
        event(delta={"content": "a", "reasoning_content": "b", "reasoning": "c"}) + END,
    ],
)
def test_legal_streams_of_many_kinds_are_read(body):
    assert read_completion(body).content == "a"


def test_line_ends_of_unicode_end_no_event():
    text = "a\u2028\u0085b"
    assert read_completion(event(delta={"content": text}) + END).content == text


@pytest.mark.parametrize(
    "body",
    [
        A,
        A + b'{"error": "upstream went away"}\n',
        b"",
        b": wait\n",
        A + b'data: {"error": {"message": "x", "code": 502}}\n\n',
        b"data: {torn\n\n",
        A + b"data: upstream worker died, retrying\n\n" + END,
        A + b"data: [1]\n\n" + END,
        event(index=0, delta={"content": "a"}, finish_reason="error"),
    ],
)
def test_a_stream_that_is_not_whole_is_no_reply(body):
    with pytest.raises(Fault) as fault:
        read_completion(body)
    assert fault.value.category == "transient"


def test_a_slow_server_that_cannot_stream_is_waited_for(tmp_path):
    make_sample(tmp_path, 1)
    write_settings(tmp_path, generate={**QUICK, "stream": False, "stall_s": 0.5, "timeout_s": 10.0})
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=1.5) as server:
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(server.chats) == 1


def test_bad_items_at_the_head_do_not_stop_the_rest(tmp_path):
    make_sample(tmp_path, 10)
    with Server(
        reply=lambda body: REPLY,
        key=KEY,
        faults=lambda n, body: (
            "400-param"
            if body["messages"][-1]["content"][:8] in ("Issue 0:", "Issue 1:", "Issue 2:")
            else None
        ),
    ) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert result.returncode == 1 and len(answers(tmp_path)) == 7, (
        "a one-word chat was taken: the items are at fault"
    )


# ---------------------------------------------------------------------------------- kill and resume


@pytest.mark.parametrize("script", ["king.py", "ch.py"])
def test_kill_9_at_random_moments_loses_nothing_and_pays_little_twice(tmp_path, script):
    turns, kills, in_flight = 60, 6, 4
    make_sample(tmp_path, turns)
    write_settings(tmp_path, generate={**QUICK, "concurrency": in_flight})
    chance = random.Random(script)
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.04) as server:
        if script == "ch.py":
            assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
        before = len(server.chats)
        for _ in range(kills):
            process = start(script, cwd=tmp_path, server=server)
            asked = len(server.chats) + chance.randint(1, 12)
            deadline = time.monotonic() + 20
            while (
                len(server.chats) < asked and process.poll() is None and time.monotonic() < deadline
            ):
                time.sleep(0.002)
            time.sleep(chance.random() * 0.05)
            process.kill()
            process.communicate()
            for path in tmp_path.glob("answer_0/prompts*.json"):
                json.loads(path.read_text())
        assert stage(script, cwd=tmp_path, server=server).returncode == 0
        paid = len(server.chats) - before
        side = "king" if script == "king.py" else "challenger"
        assert [answer[side] for answer in answers(tmp_path).values()] == [REPLY] * turns
        assert turns <= paid <= turns + kills * in_flight
        assert stage(script, cwd=tmp_path, server=server).returncode == 0
        assert len(server.chats) - before == paid, "a rerun asks for nothing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_saves_what_is_in_flight(tmp_path, number):
    make_sample(tmp_path, 100)
    write_settings(tmp_path, generate={**QUICK, "concurrency": 8})
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=0.5) as server:
        process = start("king.py", cwd=tmp_path, server=server)
        while len(server.chats) < 12:
            time.sleep(0.01)
        process.send_signal(number)
        started = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130 and time.monotonic() - started < 10
        assert "interrupted" in err and "Traceback" not in err and "not reached" in out
        assert len(answers(tmp_path)) == len(server.chats), (
            "every call that was sent came home and was kept"
        )


def test_a_stalled_call_does_not_hold_up_an_interrupt(tmp_path):
    make_sample(tmp_path, 4)
    with Server(
        reply=lambda body: REPLY, key=KEY, faults=lambda n, body: "silent", stall_s=60
    ) as server:
        process = start("king.py", cwd=tmp_path, server=server)
        while not server.chats:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 130


def test_two_runs_on_one_folder(tmp_path):
    make_sample(tmp_path, 6)
    with Server(reply=lambda body: REPLY, key=KEY, latency_s=1.5) as server:
        first = start("king.py", cwd=tmp_path, server=server)
        while not server.chats:
            time.sleep(0.01)
        second = stage("king.py", cwd=tmp_path, server=server)
        assert second.returncode == 2
        assert f"process {first.pid} on {socket.gethostname()}" in second.stderr
        first.communicate(timeout=30)
        assert first.returncode == 0 and len(server.chats) == 6


def test_a_full_disk_is_a_clear_stop_and_tears_nothing(tmp_path):
    make_sample(tmp_path, 5)
    prompts = json.loads((tmp_path / "prompt/prompts_5_1.json").read_text())
    prompts[2]["messages"][1]["content"] += "x" * 50_000
    (tmp_path / "prompt/prompts_5_1.json").write_text(json.dumps(prompts))
    write_settings(tmp_path, generate={**QUICK, "outage_s": 1.0})  # half of it is waited

    def small_disk():
        # A limit on the size of a file is the nearest to a full disk that every machine has.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with Server(reply=lambda body: REPLY, key=KEY) as server:
        result = subprocess.run(
            [sys.executable, REPO / "king.py"],
            cwd=tmp_path,
            preexec_fn=small_disk,
            text=True,
            capture_output=True,
            env=clean_environment(server),
            timeout=60,
        )
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert "File too large: no new calls, trying again" in result.stderr
        lost = len(server.chats) - len(kings(tmp_path))
        assert lost and f"lost    {lost} paid replies: the disk took no file" in result.stdout
        assert all(king == REPLY for king in kings(tmp_path))
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == 5


def test_an_output_folder_that_cannot_be_is_a_clear_stop(tmp_path):
    make_sample(tmp_path, 2)
    (tmp_path / "answer_0").write_text("a file in the way")
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    assert (
        result.returncode == 2 and "answer_0" in result.stderr and "Traceback" not in result.stderr
    )
    assert server.chats == []


# -------------------------------------------------------------------------------- money, provenance


def test_max_cost_is_never_passed(tmp_path):
    make_sample(tmp_path, 40)
    write_settings(tmp_path, generate={**QUICK, "max_tokens": 2000})
    usage = {"prompt_tokens": 200, "completion_tokens": 1000}
    price = (
        200 * 0.5 + 1000 * 2.85
    ) / 1e6  # the local server lists $0.50 and $2.85 per million tokens
    with Server(reply=lambda body: Reply(REPLY, usage=usage), key=KEY, latency_s=0.02) as server:
        result = stage("king.py", "--max-cost", "0.05", cwd=tmp_path, server=server)
        spent = len(server.chats) * price
        assert result.returncode == 1 and "--max-cost" in result.stderr
        assert 0.05 - 2 * 0.0065 < spent <= 0.05, "close to the sum, never over it"
        assert len(answers(tmp_path)) == len(server.chats)
        assert stage("king.py", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == 40


def test_max_cost_ends_whatever_the_order_in_which_calls_settle():
    async def spend() -> float:
        spending, chance = Spending(0.031), random.Random(3)

        async def call() -> None:
            worst = chance.uniform(0.001, 0.003)
            if not await spending.reserve(worst):
                await asyncio.sleep(chance.random() / 1000)
                spending.settle(worst, worst / 3)

        await asyncio.wait_for(asyncio.gather(*(call() for _ in range(200))), 10)
        return spending.at_most_usd

    for _ in range(4):
        assert 0.025 < asyncio.run(spend()) <= 0.031


def test_replies_without_usage_count_as_the_worst_case(tmp_path):
    make_sample(tmp_path, 20)
    write_settings(tmp_path, generate={**QUICK, "max_tokens": 2000})
    odd = Reply(REPLY, usage={"prompt_tokens": "n/a", "completion_tokens": None})
    with Server(reply=lambda body: odd, key=KEY) as server:
        result = stage("king.py", "--max-cost", "0.03", cwd=tmp_path, server=server)
    assert result.returncode == 1 and "--max-cost" in result.stderr
    assert kings(tmp_path) == [REPLY] * len(server.chats), "an odd usage never costs the reply"


def test_a_trial_of_the_first_n(tmp_path):
    make_sample(tmp_path, 9)
    with Server(reply=lambda body: REPLY, key=KEY) as server:
        assert stage("king.py", "--limit", "3", cwd=tmp_path, server=server).returncode == 0
        assert sorted(answers(tmp_path)) == [f"prompts_9_1_{order}" for order in (1, 2, 3)]
        assert stage("king.py", "--limit", "3", cwd=tmp_path, server=server).returncode == 0
    assert len(answers(tmp_path)) == 6


def test_meta_says_what_was_asked_and_what_came_back(tmp_path):
    make_sample(tmp_path, 1)
    write_settings(tmp_path, generate={"temperature": 0.7, "extra_body": {}})
    reply = Reply(
        REPLY,
        model="moonshotai/Kimi-K2.6-actual",
        headers={"X-Chutes-InvocationID": "inv-42"},
        usage={
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "prompt_tokens_details": {"cached_tokens": 512},
            "completion_tokens_details": {"reasoning_tokens": 33},
        },
    )
    with Server(reply=lambda body: reply, key=KEY) as server:
        result = stage("king.py", cwd=tmp_path, server=server)
    (answer,) = answers(tmp_path).values()
    meta = answer["meta"]["king"]
    assert (
        meta["model"] == "moonshotai/Kimi-K2.6-TEE"
        and meta["model_answered"] == "moonshotai/Kimi-K2.6-actual"
    )
    assert meta["sampling"] == {"temperature": 0.7, "top_p": 0.95, "max_tokens": 16000}
    assert meta["usage"] == {
        "prompt_tokens": 900,
        "completion_tokens": 80,
        "reasoning_tokens": 33,
        "cached_tokens": 512,
    }
    assert (
        meta["invocation_id"] == "inv-42" and meta["finish_reason"] == "stop" and meta["tries"] == 1
    )
    assert meta["prompt_version"] and meta["asked_at"] and meta["time_s"] >= 0
    assert meta["cost_usd"] == pytest.approx((900 * 0.5 + 80 * 2.85) / 1e6)
    assert "900 in (512 cached), 80 out (33 reasoning)" in result.stdout


def test_a_local_server_needs_no_key(tmp_path):
    make_sample(tmp_path, 2)
    with Server(reply=lambda body: REPLY) as server:
        assert stage("king.py", cwd=tmp_path, CHUTES_BASE_URL=server.url).returncode == 0
    result = stage("king.py", cwd=tmp_path)
    assert result.returncode == 2 and "CHUTES_API_KEY" in result.stderr
