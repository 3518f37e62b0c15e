"""The dry run: what is ahead, what it would cost, and whether the providers are there at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.costs import CHARS_PER_TOKEN, Listing, priced
from common.client.faults import Fault
from common.client.run import Run
from common.config import CallSettings
from common.environment import Environment
from common.files import BadFile, turn_files
from common.turns import answer_files, read_answer, read_score

_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess until one is there


@dataclass
class _Ahead:
    """The calls ahead to one model, and the length of its replies so far, all tries counted."""

    call: CallSettings
    calls: int = 0
    chars: int = 0
    longest: int = 0
    replies: int = 0
    reply_tokens: int = 0


def dry_run(
    environment: Environment,
    planned: Iterable[tuple[CallSettings, int]],
    passed_over: Counter,
    replies: Iterable[tuple[str, dict]],
    batch: bool = False,
) -> int:
    """Print what is ahead; return the exit code.

    `planned` holds (settings, prompt characters) of each call, `passed_over` how many items are
    left out by reason, `replies` (model, what its file says) of those that are there already: they
    tell how long replies are; `batch`: at the price of batches. Asks the providers only for their
    free lists of models.
    """
    for reason, count in passed_over.most_common():
        if count:
            print(f"  passed over {count:>6}  {reason}")
    models: dict[str, _Ahead] = {}
    for call, chars in planned:
        ahead = models.setdefault(call.model, _Ahead(call))
        ahead.calls += 1
        ahead.chars += chars
        ahead.longest = max(ahead.longest, chars)
    if not models:
        print("dry run: nothing to ask; a run would send no call.")
        return EXIT_DONE
    for model, meta in replies:
        usage = meta.get("usage_all_tries") or meta.get("usage") or {}
        if model in models and usage.get("completion_tokens"):
            models[model].replies += 1
            models[model].reply_tokens += usage["completion_tokens"]

    lists, code = asyncio.run(_fetch_lists(environment, models))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    costs = []
    for ahead in models.values():
        provider = ahead.call.provider
        share = environment.providers[provider].batch_price if batch else 1
        costs.append(_print_calls(ahead, lists[provider], share))
    if len(models) > 1:
        unpriced = sum(a.calls for a, cost in zip(models.values(), costs) if cost is None)
        unknown = f" and {unpriced:,} calls of unknown price" if unpriced else ""
        total = sum(cost for cost in costs if cost is not None)
        calls = sum(ahead.calls for ahead in models.values())
        print(f"  all: {calls:,} calls, about ${total:.2f}{unknown}")
    return code


def _print_calls(ahead: _Ahead, listings: dict[str, Listing], share: float) -> float | None:
    """Print the calls to one model at a share of the list price; return their cost if known."""
    call = ahead.call
    reply = min(call.max_tokens, _COMPLETION_TOKENS)
    basis = f"a guess of {reply:,} a reply"
    if ahead.replies:
        reply = ahead.reply_tokens / ahead.replies
        basis = f"{reply:,.0f} a reply, as the {ahead.replies:,} so far"
    prompt = round(ahead.chars / CHARS_PER_TOKEN)
    completion = round(ahead.calls * reply)
    listing = priced(listings.get(call.model, Listing()), call.prices)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
    cost = listing.cost_usd(usage)
    cost = None if cost is None else share * cost
    price = "price unknown" if cost is None else f"about ${cost:.2f}"
    if share < 1:
        price += f", as a batch at {share:.0%} of the list"
    print(
        f"  {call.model}: {ahead.calls:,} calls, about {prompt:,} tokens in, "
        f"{completion:,} out ({basis}), {price}"
    )
    if listings and call.model not in listings:
        print("    not on the provider's model list: is the id right?")
    if listing.context_tokens:
        longest = int(ahead.longest / CHARS_PER_TOKEN)
        too_long = longest + call.max_tokens > listing.context_tokens
        print(
            f"    longest prompt about {longest:,} tokens + max_tokens {call.max_tokens:,} of "
            f"{listing.context_tokens:,} context tokens"
            f"{': TOO LONG, such calls will be refused' if too_long else ''}"
        )
    return cost


async def _fetch_lists(
    environment: Environment, models: dict[str, _Ahead]
) -> tuple[dict[str, dict[str, Listing]], int]:
    """Return each provider's models by id, and an exit code; say why a list cannot be had."""
    from common.client.wire import Connection  # takes a second

    lists = {}
    code = EXIT_DONE
    for name in sorted({ahead.call.provider for ahead in models.values()}):
        endpoint = environment.providers[name]
        connection = Connection(endpoint)
        lists[name] = {}
        try:
            lists[name] = await connection.models()
        except Fault as fault:
            print(f"  {endpoint.base_url}: {Run(environment).masked(str(fault))[:400]}")
            # A server may have no such list (404): that is no fault of the settings.
            if fault.category != "transient" and fault.status not in (404, 405):
                print(f"  {fault.advice_at(endpoint)}")
                code = EXIT_STOPPED
            elif fault.reached:
                print("  The model list cannot be had, so prices are unknown.")
            else:
                print(f"  It does not answer. Check {endpoint.url_place}, or start it.")
                code = code or EXIT_SOME_FAILED
        finally:
            await connection.close()
    return lists, code


def own_replies(side: str) -> Iterator[tuple[str, dict]]:
    """Yield (model, what the file says of it) of each reply of one side that is there."""
    for path in answer_files(None).values():
        try:
            meta = read_answer(path)["meta"][side]
        except BadFile:
            continue
        if meta.get("model") and "candidates" not in meta:  # whose usage is of many calls
            yield meta["model"], meta


def own_verdicts() -> Iterator[tuple[str, dict]]:
    """Yield (judge, verdict) of each verdict on file."""
    for path in turn_files("score"):
        try:
            verdicts = read_score(path)["verdicts"]
        except BadFile:
            continue
        for verdict in verdicts:
            yield verdict["judge"], verdict
