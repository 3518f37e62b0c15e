"""What a stage needs to ask models: `LLM.ask` for one reply, `run_turns` for all its turns.

How often and how fast a model is asked, and what a fault ends: model.py and pace.py.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import NamedTuple

from common import cli, start
from common.client.batches import Batches, Waiting
from common.client.model import Model
from common.client.reasoning import reasoning_left, visible_text
from common.client.run import GRACE_S, Halted, Run, prompt_chars
from common.config import CallSettings, Environment
from common.files import ItemFailed, clean_text, printable

# How a reply ends: OpenAI's word and its kin at other makers, in lower case.
_WHOLE = """stop eos eos_token end_turn end_of_turn end_of_text stop_sequence
    complete completed""".split()
_CUT_OFF = """length max_tokens max_output_tokens max_completion_tokens max_length model_length
    model_context_window_exceeded""".split()
_MANY_CUTS = 3  # in a run: fewer may be any bad line's
_CHARS_KEPT = 400  # of a refused reply
_ALIKE = 3  # errors of the program before anything is done: its fault, not an item's
# A prompt was cut that counts fewer tokens than one for so many characters, and fewer than these
# for each word (of 12 letters at most, in scripts without blanks too). English prose has 1.2 to 1.4
# tokens a word, code and other languages two and more; blanks and rules of marks may have none.
_CHARS_OF_A_TOKEN = 4.5
_TOKENS_OF_A_WORD = 0.9
_WORD = re.compile(r"[^\s!-/:-@\[-^`{-~]{1,12}")
_OTHER_LENGTH = 2  # times as long as another chat of the same count, the largest that was told
_SHORT = 1000  # tokens: no context is so small that it cuts fewer
_FULL_SHARE = 0.95  # of max_tokens: servers count the end of a reply or not, some a few tokens less


class Reply(NamedTuple):
    """A reply, and for the file what is known of it: `cost_usd` (None: unknown) is of all tries."""

    text: str  # without reasoning
    meta: dict


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    last: Reply


class LLM(Run):
    """A run, and what its stage asks of its models."""

    def __init__(self, environment: Environment, flags, stage: str, failed_before: str = ""):
        super().__init__(environment, flags.max_cost)
        self.failed_before = failed_before  # the rows of the stage's last run, as text
        self.batches = Batches(self, stage, flags)
        self.concurrency = flags.concurrency
        self._largest_prompts = {}  # see _context_lack

    async def ask(
        self,
        call: CallSettings,
        messages: list[dict],
        accept: Callable[[str], str | None],
        again: Callable[[str, str], list[dict]] | None = None,
        who: str = "",
    ) -> Reply:
        """Return a reply that `accept` finds nothing wrong with (it returns None, or says what).

        A refused, empty or cut-off reply is asked for again, at most `bad_reply_tries` times in
        all; a cut-off one with twice the tokens, up to `max_tokens_cap`. `again(text, why)` may
        give other messages for the next try. `who` tells this asking from another in the same
        words. Raises ItemFailed, NoAcceptableReply, or Halted when the run is over.
        """
        asked_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        started_s = time.monotonic()
        model = self._model(call)
        max_tokens = call.max_tokens
        tries = 0
        cost_usd: float | None = 0.0
        usage_all_tries: Counter = Counter()
        refused: list[dict] = []
        for _ in range(call.bad_reply_tries):
            try:
                answer = await model.complete(call, messages, max_tokens, who, tries)
            except ItemFailed as failure:
                failure.replies = refused
                raise
            completion, attempts, cost = answer
            end = completion.finish_reason.lower().rpartition(".")[2]  # FinishReason.STOP
            is_cut = end in _CUT_OFF
            was_cut = max_tokens if is_cut else 0
            known = self._largest_prompts
            if lack := _context_lack(known, call.model, messages, completion, was_cut):
                self.spending.calls["cut by the context"] += 1
                raise lack
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            usage_all_tries.update(completion.usage)
            text = self.masked(clean_text(visible_text(completion.content)))
            meta = {
                "finish_reason": completion.finish_reason,
                "usage": completion.usage,
                "usage_all_tries": dict(usage_all_tries),
                "cost_usd": cost_usd,
                "model": call.model,
                "model_answered": completion.model,
                "invocation_id": completion.invocation_id,
                "asked_at": asked_at,
                "time_s": round(time.monotonic() - started_s, 3),
                "tries": tries,
                "sampling": {**call.sampling(), "max_tokens": max_tokens},
            }
            if completion.batch:
                meta["batch"] = completion.batch
            mark = self.masked(reasoning_left(completion.content))
            self.spending.marks[call.model][mark] += 1
            why = _refusal(text, end, mark, completion) or accept(text)
            self.spending.calls["refused reply" if why else "good"] += 1
            if not why or completion.batch not in self.batches.told:
                model.note_reply(call, text, why, len(refused) + 1, is_cut)
            if not why:
                return Reply(text, meta)
            refused.append({"why": why, "text": text[:_CHARS_KEPT]})
            if again:
                messages = again(text, why)
            if is_cut:
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
            if self.batches.asks_nothing_live and tries >= call.bad_reply_tries:
                break

        detail = f"{why} (asked {call.bad_reply_tries} times)"
        if is_cut:
            came = f"{len(completion.content):,} characters came"
            cap = f"max_tokens_cap {call.max_tokens_cap:,} in chain.toml"
            detail += f"; {came} in max_tokens {was_cut:,} of {cap}"
        failure = NoAcceptableReply(f"no acceptable reply: {why}", detail)
        failure.last = Reply(text, meta)
        failure.replies = refused
        raise failure

    def _model(self, call: CallSettings) -> Model:
        """Return the model that a call goes to, made when first asked."""
        key = (call.provider, call.model)
        if key not in self.models:
            from common.client.wire import Connection  # takes a second

            connection = Connection(self.environment.providers[call.provider])
            self.models[key] = Model(self, call, connection, self.concurrency or call.concurrency)
            self.disk_patience_s = min(self.disk_patience_s, call.outage_s / 2)
        return self.models[key]

    async def close(self) -> None:
        """Send the batches, close all sockets."""
        await self.batches.close()
        for model in self.models.values():
            await model.connection.close()

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        lines = [*self.spending.lines(), *self.batches.lines()]
        for (_, name), model in self.models.items():
            cuts = model.limiter.pace.cuts
            if cuts >= _MANY_CUTS:
                lines.append(
                    f"note    {cuts:,} replies of {name} broke off while others ran; if its server "
                    "ends one for the next, set concurrency = 1 or stream = false in chain.toml"
                )
        if self.given_up:
            words = "calls in flight when the run ended, which may be billed all the same"
            lines.append(f"left    {self.given_up:,} {words}")
        if self.lost_replies:
            words = "paid replies: the disk took no file for them"
            lines.append(f"lost    {self.lost_replies:,} {words}")
        return lines


def _refusal(text: str, end: str, mark: str, completion) -> str | None:
    """Return why this is no whole reply, None where it is."""
    if end in _CUT_OFF:
        return "cut off at max_tokens" if text else "empty: all of max_tokens went into reasoning"
    if end.startswith(("tool_", "function_call")):
        return "a tool call instead of text"
    if end not in _WHOLE:
        return f"no end that is known to be good: finish_reason {completion.finish_reason[:60]!r}"
    if not text and mark:
        return f"empty: nothing stands outside the reasoning, which begins with {mark}"
    if not text and completion.reasoning_field:
        return f"empty: all that came is in {completion.reasoning_field}"
    return None if text else "empty"


def _context_lack(
    largest: dict, model: str, messages: list[dict], completion, was_cut: int
) -> ItemFailed | None:
    """Return the failure where a context did not hold a chat; another ask would meet it, too.

    `largest`, by model: the most prompt tokens told, the fewest and most characters of such chats;
    `was_cut`: the max_tokens of a reply that was cut off, 0 of one that came to its own end.
    """
    kind = ""
    told = completion.usage.get("prompt_tokens")
    if told:
        came = completion.usage["completion_tokens"] + completion.usage["reasoning_tokens"]
        chars = prompt_chars(messages)
        most, fewest_chars, most_chars = largest.get(model, (0, chars, chars))
        if told > most:
            most, fewest_chars, most_chars = told, chars, chars
        elif told == most:
            fewest_chars = min(fewest_chars, chars)
            most_chars = max(most_chars, chars)
        largest[model] = (most, fewest_chars, most_chars)
        is_same = told == most and most_chars > _OTHER_LENGTH * fewest_chars
        least = 0
        if told < chars / _CHARS_OF_A_TOKEN:
            words = sum(len(_WORD.findall(message["content"])) for message in messages)
            least = int(_TOKENS_OF_A_WORD * words)
        if max(told, least) >= _SHORT and (told < least or is_same):
            kind = "the server cut the prompt (its context; Ollama: num_ctx)"
            detail = f"it counts {told:,} prompt tokens of {chars:,} characters"
    else:  # llama.cpp's server tells none in streams: no token is shorter than a byte
        came = len(completion.content.encode("utf-8", "replace")) + completion.reasoning_bytes
    if not kind and came < _FULL_SHARE * was_cut and (told or completion.content):
        kind = "cut off: the context is full"
        detail = f"{came:,} of max_tokens {was_cut:,} came, or replies have a limit of their own"
    advice = "Give the server a larger context (Ollama: num_ctx; llama.cpp: n_ctx)."
    return ItemFailed(kind, f"{kind}: {detail}. {advice}", lasting=True) if kind else None


def run_turns(
    llm: LLM,
    stems: list[str],
    work: Callable[[str], Awaitable[None]],
    *,
    width: int,
    progress: cli.Progress,
    tally: cli.Tally,
) -> int:
    """Do `work(stem)` for every turn, `width` at once; it saves its own results.

    ItemFailed fails that turn in `tally`. A halt (Ctrl-C, configuration, outage, --max-cost) ends
    the run: no new calls, those in flight get a few seconds, what they bring is saved. Return 0, or
    the exit code, its reason told on stderr.
    """
    llm.say = progress.say
    left = iter(stems)

    async def worker() -> None:
        for stem in left:
            if llm.end:
                return
            try:
                await work(stem)
                tally.done += 1
            except Waiting:
                tally.waiting += 1
            except ItemFailed as failure:
                kept = failure.replies
                tally.fail(stem, failure.kind, failure.detail, failure.lasting, replies=kept)
            except Halted:
                return
            except cli.STOPPING as stop:
                return llm.halt(cli.EXIT_STOPPED, cli.stop_words(stop))
            except Exception as error:  # of this program: it fails its item, three alike the run
                words = llm.masked(f"{type(error).__name__}: {error}", 1)[:_CHARS_KEPT]
                trace = llm.masked("".join(traceback.format_exception(error)), 1)
                kind = f"error of this program: {type(error).__name__}"
                tally.fail(stem, kind, words, traceback=trace)
                kinds = [row["kind"] for row in tally.failed[-_ALIKE:]]
                if not tally.done and kinds == [kind] * _ALIKE:
                    words = f"the first {_ALIKE} turns failed alike: {words}"
                    llm.halt(cli.EXIT_STOPPED, f"{words}\n_failed.jsonl holds the tracebacks.")
            paces = [str(model.limiter.pace) for model in llm.models.values()]
            notes = {"failed": len(tally.failed), "at_once": "+".join(paces)}
            if llm.spending.cost_usd:
                notes = {"spent": f"${llm.spending.cost_usd:.2f}", **notes}
            progress.update(**notes)

    try:
        asyncio.run(_run_workers(llm, worker, width))
    finally:
        start.handle_signals(signal.default_int_handler)
        progress.close()
    code, words = llm.end or (cli.EXIT_DONE, "")
    is_useless = any(model.is_useless for model in llm.models.values())
    tally.stopped = is_useless or code == cli.EXIT_STOPPED
    if words:
        tally.left = max(0, progress.total - progress.n)
        print(printable(f"\n{tally.stage}: {words}"), file=sys.stderr)
    return code


async def _run_workers(llm: LLM, worker: Callable[[], Awaitable[None]], width: int) -> None:
    """Let so many workers run until they are through or the run is over."""
    loop = asyncio.get_running_loop()
    for number in start.ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, llm.interrupt)
    workers = [loop.create_task(worker()) for _ in range(width)]
    through = loop.create_task(asyncio.wait(workers))
    over = loop.create_task(llm.over.wait())
    await asyncio.wait({through, over}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({through}, timeout=GRACE_S)
    llm.given_up = sum(model.limiter.in_flight for model in llm.models.values())
    loop.set_exception_handler(lambda *_: None)  # nobody asks for what is cancelled now
    for task in (over, *workers):
        task.cancel()
    await through
    await llm.close()
    for task in workers:
        if not task.cancelled():
            task.result()  # raises what nobody expected
