"""What a stage needs to ask models: `LLM.ask` for one reply, `run_turns` for all its turns.

A reply is kept only when it has come to its end and the stage accepts it (`_refusal`). How often
and how fast a model is asked, and what a fault ends: model.py and pace.py.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from common import cli, start
from common.client.batches import Batches, Waiting
from common.client.costs import Contexts
from common.client.model import Model
from common.client.reasoning import reasoning_left, visible_text
from common.client.run import Halted, Run
from common.config import CallSettings
from common.environment import Environment
from common.files import BadFile, ItemFailed, UserError, clean_text, printable

# How a reply ends: OpenAI's word and its kin at other makers, in lower case.
_WHOLE = (
    "stop eos eos_token end_turn end_of_turn end_of_text stop_sequence complete completed".split()
)
_CUT_OFF = (
    "length max_tokens max_output_tokens max_completion_tokens max_length model_length"
    " model_context_window_exceeded"
).split()
_TOOL_CALLS = ("tool_calls", "tool_call", "tool_use", "function_call")
_MANY_CUTS = 3  # in a run: fewer may be any bad line's
_GRACE_S = 5.0  # after Ctrl-C: time for calls in flight, which are paid, to come home
_ITEMS_OF_A_SECOND_TRIAL = 3  # after a run that left a model: chosen
_CHARS_KEPT = 400  # of a refused reply
_ALIKE = 3  # errors of the program alike in a row: a fault of the program, not of an item


class Reply(NamedTuple):
    """A reply as it is kept: `text` without reasoning, and for the file what is known of it.

    In `meta`, `usage` is of this reply; `usage_all_tries`, `cost_usd` (None where no price is
    known) and `tries` are of all that it took.
    """

    text: str
    meta: dict


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply, replies: list[dict]):
        super().__init__(kind, detail)
        self.last = last
        self.replies = replies


class LLM:
    """All models of a run: a connection for each provider, one budget."""

    def __init__(self, environment: Environment, flags, stage: str):
        self.run = Run(environment, flags.max_cost)
        self.run.batches = Batches(self.run, stage, flags)
        self.concurrency = flags.concurrency
        self._connections = {}
        self._contexts = Contexts()

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
                completion, attempts, cost = await model.complete(
                    call, messages, max_tokens, who, tries
                )
            except Waiting:
                raise
            except ItemFailed as failure:
                ours = copy(failure)  # several may share it
                ours.replies = refused
                raise ours from None
            end = completion.finish_reason.lower().rpartition(".")[2]  # FinishReason.STOP
            is_cut = end in _CUT_OFF
            was_cut = max_tokens if is_cut else 0
            if lack := self._contexts.lack(call.model, messages, completion, was_cut):
                self.run.spending.calls["cut by the context"] += 1
                raise lack
            tries += attempts
            cost_usd = None if cost is None or cost_usd is None else cost_usd + cost
            usage_all_tries.update(completion.usage)
            text = self.run.masked_reply(clean_text(visible_text(completion.content)))
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
            mark = self.run.masked_reply(reasoning_left(completion.content))
            why = _refusal(text, end, mark, completion) or accept(text)
            self.run.spending.calls["refused reply" if why else "good"] += 1
            self.run.spending.marks[call.model][mark] += 1
            if why is None:
                model.note_good_reply()
                return Reply(text, meta)
            refused.append({"why": why, "text": text[:_CHARS_KEPT]})
            if self.run.batches.is_news(completion.batch):
                model.note_refused_reply(call, len(refused), is_cut, f"{why}: {text}")
            if again:
                messages = again(text, why)
            if is_cut:
                max_tokens = min(2 * max_tokens, call.max_tokens_cap)
            if self.run.batches.asks_nothing_live and tries >= call.bad_reply_tries:
                break

        detail = f"{why} (asked {call.bad_reply_tries} times)"
        if is_cut:
            asked = f"max_tokens {meta['sampling']['max_tokens']:,}"
            cap = f"max_tokens_cap {call.max_tokens_cap:,}"
            came = f"{len(completion.content):,} characters came"
            detail = f"{detail}; {asked} of {cap} in chain.toml was not enough: {came}"
        last = Reply(text, meta)
        raise NoAcceptableReply(f"no acceptable reply: {why}", detail, last, refused)

    def _model(self, call: CallSettings) -> Model:
        """Return the model that a call goes to, and its connection: made when first asked."""
        models = self.run.models
        key = (call.provider, call.model)
        if key not in models:
            from common.client.wire import Connection  # takes a second

            if call.provider not in self._connections:
                endpoint = self.run.environment.providers[call.provider]
                self._connections[call.provider] = Connection(endpoint)
            self._connections[call.provider].prices[call.model] = call.prices
            width = self.concurrency or call.concurrency
            models[key] = Model(self.run, call, self._connections[call.provider], width)
            self.run.saver.patience_s = min(self.run.saver.patience_s, call.outage_s / 2)
        return models[key]

    async def save(self, path: Path | str, value: object) -> None:
        """Write a file that holds paid replies; a disk that refuses is tried again for a while."""
        await self.run.saver.save(path, value)

    async def close(self) -> None:
        """Finish what is being saved, close all sockets."""
        await self.run.saver.close()
        await self.run.batches.close()
        for connection in self._connections.values():
            await connection.close()

    def notes(self, failed: int) -> dict:
        """Return dollars so far, failures and each model's pace, for the progress bar."""
        paces = [str(model.limiter.pace) for model in self.run.models.values()]
        notes = {"failed": failed, "at_once": "+".join(paces)}
        if self.run.spending.cost_usd:
            notes = {"spent": f"${self.run.spending.cost_usd:.2f}", **notes}
        return notes

    def usage_lines(self) -> list[str]:
        """Return calls by outcome, tokens and cost, for the tally."""
        lines = [*self.run.spending.lines(), *self.run.batches.lines()]
        for (_, name), model in self.run.models.items():
            if model.limiter.pace.cuts >= _MANY_CUTS:
                words = f"{model.limiter.pace.cuts:,} replies of {name} broke off while others ran"
                settings = "set concurrency = 1 or stream = false in chain.toml"
                lines.append(f"note    {words}; if its server ends one for the next, {settings}")
        if self.run.given_up:
            words = "calls in flight when the run ended, which may be billed all the same"
            lines.append(f"left    {self.run.given_up:,} {words}")
        lost = self.run.saver.lost
        if lost:
            lines.append(f"lost    {lost:,} paid replies: the disk took no file for them")
        return lines


def _refusal(text: str, end: str, mark: str, completion) -> str | None:
    """Return why this is no whole reply, None where it is."""
    if end in _CUT_OFF and not text:
        return "empty: all of max_tokens went into reasoning"
    if end in _CUT_OFF:
        return "cut off at max_tokens"
    if end in _TOOL_CALLS:
        return "a tool call instead of text"
    if end not in _WHOLE:
        return f"no end that is known to be good: finish_reason {completion.finish_reason[:60]!r}"
    if not text and mark:
        return f"empty: nothing stands outside the reasoning, which begins with {mark}"
    if not text and completion.reasoning_field:
        return f"empty: all that came is in {completion.reasoning_field}"
    return None if text else "empty"


# ------------------------------------------------------------------------------ all turns of a run


def run_turns(
    llm: LLM,
    turns: Iterable,
    work: Callable[[object], Awaitable[None]],
    *,
    width: int,
    progress: cli.Progress,
    tally: cli.Tally,
    name: Callable[[object], str] = str,
) -> int:
    """Do `work(turn)` for every turn, `width` at once, pulled from `turns` as they are needed.

    `work` saves its own results; ItemFailed fails that turn in `tally`. A halt (Ctrl-C,
    configuration, outage, --max-cost) ends the run: no new calls, those in flight get a few
    seconds, what they bring is saved. Return 0, or the exit code, its reason told on stderr.
    """
    llm.run.say = progress.say
    llm.run.failed_before = bool(tally.failed_before)
    if any(cli.NOTHING_USABLE in kind for kind in tally.failed_before):
        llm.run.items_of_a_trial = _ITEMS_OF_A_SECOND_TRIAL
    try:
        asyncio.run(_Turns(llm, iter(turns), work, name, progress, tally).run(width))
    finally:
        start.handle_signals(signal.default_int_handler)
        progress.close()
    tally.stopped = any(model.is_useless for model in llm.run.models.values())
    if llm.run.end is None:
        return cli.EXIT_DONE
    tally.left = max(0, progress.total - progress.n)
    code, words = llm.run.end
    tally.stopped = tally.stopped or code == cli.EXIT_STOPPED
    print(printable(f"\n{tally.stage}: {words}"), file=sys.stderr)
    return code


@dataclass
class _Turns:
    """The turns of a stage, worked on by so many workers at once."""

    llm: LLM
    left: Iterator
    work: Callable[[object], Awaitable[None]]
    name: Callable[[object], str]
    progress: cli.Progress
    tally: cli.Tally
    errors_in_a_row: list[str] = field(default_factory=list)

    async def run(self, width: int) -> None:
        """Let the workers run until the turns are through or the run is over."""
        run = self.llm.run
        loop = asyncio.get_running_loop()
        for number in start.ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, run.interrupt)
        workers = [loop.create_task(self.worker()) for _ in range(width)]
        through = loop.create_task(asyncio.wait(workers))
        over = loop.create_task(run.over.wait())
        hurried = loop.create_task(run.hurried.wait())
        await asyncio.wait({through, over}, return_when=asyncio.FIRST_COMPLETED)
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({through, hurried}, timeout=_GRACE_S, return_when=first)
        run.given_up = sum(model.limiter.in_flight for model in run.models.values())
        loop.set_exception_handler(lambda *_: None)  # nobody asks for what is cancelled now
        for task in (over, hurried, *workers):
            task.cancel()
        await through
        await self.llm.close()
        for worker in workers:
            if not worker.cancelled():
                worker.result()  # raises what nobody expected

    async def worker(self) -> None:
        """Work on one turn after the other, until there are no more or the run is over."""
        run = self.llm.run
        try:
            for turn in self.left:
                if run.end:
                    return
                await self.do(turn)
                self.progress.update(**self.llm.notes(len(self.tally.failed)))
        except Halted:
            pass
        except (UserError, BadFile) as stop:
            run.halt(cli.EXIT_STOPPED, str(stop))
        except OSError as error:
            run.halt(cli.EXIT_STOPPED, cli.disk_words(error))

    async def do(self, turn: object) -> None:
        """Do the work on a turn; count it as done, or as failed by itself or by this program."""
        try:
            await self.work(turn)
            self.tally.done += 1
            self.errors_in_a_row.clear()
        except Waiting:
            self.tally.waiting += 1
        except ItemFailed as failure:
            more = {"replies": failure.replies} if failure.replies else {}
            self.tally.fail(self.name(turn), failure.kind, failure.detail, failure.lasting, **more)
        except (Halted, UserError, BadFile, OSError):
            raise
        except ModuleNotFoundError as missing:
            self.llm.run.halt(cli.EXIT_STOPPED, start.install_words(missing))
            raise Halted() from None
        except Exception as error:
            self.fail_by_error(self.name(turn), error)

    def fail_by_error(self, item: str, error: Exception) -> None:
        """Fail an item by an error of this program, with its traceback; stop at the third alike."""
        run = self.llm.run
        where = traceback.extract_tb(error.__traceback__)[-1].name
        kind = f"error of this program: {type(error).__name__} in {where}"
        trace = run.masked("".join(traceback.format_exception(error)))
        self.tally.fail(item, kind, f"{type(error).__name__}: {error}", traceback=trace)
        self.errors_in_a_row.append(kind)
        if self.errors_in_a_row[-_ALIKE:] == [kind] * _ALIKE:
            words = run.masked(f"{_ALIKE} turns in a row failed alike: {kind}: {error}")[:400]
            run.halt(cli.EXIT_STOPPED, f"{words}\n_failed.jsonl holds the tracebacks.")
