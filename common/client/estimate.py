"""The dry run: what is ahead, what it would cost, and whether the providers are there at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.costs import CHARS_PER_TOKEN, Listing
from common.client.faults import Fault
from common.client.run import Run
from common.config import CallSettings
from common.environment import Environment
from common.files import BadFile, turn_files
from common.turns import answer_files, read_answer, read_score

_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess until one is there


def dry_run(
    environment: Environment,
    planned: Iterable[tuple[CallSettings, int]],
    passed_over: Counter,
    replies: Iterable[tuple[str, dict]],
    batch: bool = False,
) -> int:
    """Print what is ahead; return the exit code. Asks for the providers' free lists alone.

    `planned` holds (settings, prompt characters) of each call, `passed_over` how many items are
    left out by reason, `replies` (model, what its file says) of those that are there already: they
    tell how long replies are; `batch`: at the price of batches.
    """
    for reason, count in passed_over.most_common():
        if count:
            print(f"  passed over {count:>6}  {reason}")
    calls = {}
    counts = Counter()
    chars = Counter()
    for call, prompt_chars in planned:
        calls[call.model] = call
        counts[call.model] += 1
        chars[call.model] += prompt_chars
    if not calls:
        print("dry run: nothing to ask; a run would send no call.")
        return EXIT_DONE
    lengths = {model: [] for model in calls}  # of its replies so far, all tries counted
    for model, meta in replies:
        usage = meta.get("usage_all_tries") or meta.get("usage") or {}
        if model in calls and usage.get("completion_tokens"):
            lengths[model].append(usage["completion_tokens"])

    providers = {call.provider for call in calls.values()}
    lists, code = asyncio.run(_fetch_lists(environment, providers))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total_usd = 0.0
    unpriced = 0
    for model, call in calls.items():
        listings = lists[call.provider]
        reply_tokens = min(call.max_tokens, _COMPLETION_TOKENS)
        basis = f"a guess of {reply_tokens:,} a reply"
        if so_far := lengths[model]:
            reply_tokens = sum(so_far) / len(so_far)
            basis = f"{reply_tokens:,.0f} a reply, as the {len(so_far):,} so far"
        prompt = round(chars[model] / CHARS_PER_TOKEN)
        completion = round(counts[model] * reply_tokens)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
        cost = listings.get(model, Listing()).priced(call.prices).cost_usd(usage)
        share = environment.providers[call.provider].batch_price if batch else 1
        price = "price unknown" if cost is None else f"about ${share * cost:.2f}"
        if share < 1:
            price += f", as a batch at {share:.0%} of the list"
        print(
            f"  {model}: {counts[model]:,} calls, about {prompt:,} tokens in, "
            f"{completion:,} out ({basis}), {price}"
        )
        if listings and model not in listings:
            print("    not on the provider's model list: is the id right?")
        total_usd += share * (cost or 0)
        unpriced += counts[model] if cost is None else 0
    if len(calls) > 1:
        unknown = f" and {unpriced:,} calls of unknown price" if unpriced else ""
        print(f"  all: {sum(counts.values()):,} calls, about ${total_usd:.2f}{unknown}")
    return code


async def _fetch_lists(environment: Environment, providers: set[str]) -> tuple[dict, int]:
    """Return each provider's models by id, and an exit code; say why a list cannot be had."""
    from common.client.wire import Connection  # takes a second

    lists = {}
    code = EXIT_DONE
    for name in sorted(providers):
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
            elif not fault.reached:
                print(f"  It does not answer. Check {endpoint.url_place}, or start it.")
                code = code or EXIT_SOME_FAILED
        await connection.close()
    return lists, code


def own_replies(side: str) -> Iterator[tuple[str, dict]]:
    """Yield (model, what the file says of it) of each reply of a side, or verdict of "judge"."""
    if side == "judge":
        for path in turn_files("score"):
            with suppress(BadFile):
                yield from ((found["judge"], found) for found in read_score(path)["verdicts"])
        return
    for path in answer_files(None).values():
        with suppress(BadFile):
            meta = read_answer(path)["meta"][side]
            if meta.get("model") and "candidates" not in meta:  # whose usage is of many calls
                yield meta["model"], meta
