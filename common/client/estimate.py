"""The dry run: what is ahead, what it would cost, and whether the providers are there at all."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.faults import Fault
from common.client.run import CHARS_PER_TOKEN, Run, prices_of, prompt_chars
from common.config import Endpoint, Environment
from common.files import BadFile, turn_files
from common.turns import answer_files, read_answer, read_score

_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess until one is there


def dry_run(environment: Environment, planned, passed_over: Counter, replies, batch=False) -> int:
    """Print what is ahead; return the exit code. Asks the providers for their free lists alone.

    `planned` yields (settings, messages) of each call, `passed_over` counts items by why,
    `replies` yields (model, what its file says) of those on file; `batch`: at the batch price.
    """
    for reason, count in passed_over.most_common():
        print(f"  passed over {count:>6}  {reason}")
    calls = {}
    prompts = defaultdict(list)  # by model, in characters
    lengths = defaultdict(list)  # of the replies so far, in tokens of all tries
    for call, messages in planned:
        calls[call.model] = call
        prompts[call.model].append(prompt_chars(messages))
    if not calls:
        print("dry run: nothing to ask; a run would send no call.")
        return EXIT_DONE
    for model, meta in replies:
        usage = meta.get("usage_all_tries") or meta.get("usage") or {}
        if usage.get("completion_tokens"):
            lengths[model].append(usage["completion_tokens"])

    lists = {}
    code = EXIT_DONE
    for provider in sorted({call.provider for call in calls.values()}):
        endpoint = environment.providers[provider]
        lists[provider] = {}
        try:
            lists[provider] = asyncio.run(_list_prices(endpoint))
        except Fault as fault:
            print(f"  {endpoint.base_url}: {Run(environment).masked_fault(fault)}")
            # A server may have no such list (404): that is no fault of the settings.
            if fault.category != "transient" and fault.status not in (404, 405):
                print(f"  {fault.advice_at(endpoint)}")
                code = EXIT_STOPPED
            elif not fault.reached:
                print(f"  It does not answer. Check {endpoint.url_place}, or start it.")
                code = max(code, EXIT_SOME_FAILED)
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total_usd = 0.0
    unpriced = 0
    for model, call in calls.items():
        count = len(prompts[model])
        reply = min(call.max_tokens, _COMPLETION_TOKENS)
        basis = f"a guess of {reply:,} a reply"
        if lengths[model]:
            reply = sum(lengths[model]) / len(lengths[model])
            basis = f"{reply:,.0f} a reply, as the {len(lengths[model]):,} so far"
        prompt = round(sum(prompts[model]) / CHARS_PER_TOKEN)
        completion = round(count * reply)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
        listed = lists[call.provider]
        cost = prices_of(call, listed).cost_usd(usage)
        share = environment.providers[call.provider].batch_price if batch else 1
        price = "price unknown" if cost is None else f"about ${share * cost:.2f}"
        price += f", as a batch at {share:.0%} of the list" if share < 1 else ""
        tokens = f"about {prompt:,} tokens in, {completion:,} out ({basis})"
        print(f"  {model}: {count:,} calls, {tokens}, {price}")
        if listed and model not in listed:
            print("    not on the provider's model list: is the id right?")
        total_usd += share * (cost or 0)
        unpriced += count * (cost is None)
    if len(calls) > 1:
        unknown = f" and {unpriced:,} calls of unknown price" if unpriced else ""
        count = sum(map(len, prompts.values()))
        print(f"  all: {count:,} calls, about ${total_usd:.2f}{unknown}")
    return code


async def _list_prices(endpoint: Endpoint) -> dict:
    from common.client.wire import Connection  # takes a second

    connection = Connection(endpoint)
    try:
        return await connection.list_prices()
    finally:
        await connection.close()


def own_replies(side: str) -> Iterator[tuple[str, dict]]:
    """Yield (model, what its file says) of each reply of a side, or of each verdict ("judge")."""
    for path in turn_files("score") if side == "judge" else answer_files().values():
        with suppress(BadFile):
            if side == "judge":
                yield from ((verdict["judge"], verdict) for verdict in read_score(path)["verdicts"])
                continue
            meta = read_answer(path)["meta"][side]
            if "candidates" not in meta:  # whose usage is of many calls
                yield meta.get("model"), meta
