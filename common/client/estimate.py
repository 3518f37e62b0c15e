"""The dry run: what is ahead, what it would cost, and whether the providers are there at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.costs import CHARS_PER_TOKEN, Model
from common.client.faults import Fault
from common.client.route import mask_keys
from common.config import CallSettings, Environment
from common.files import BadFile, turn_files
from common.turns import answer_files, read_answer, read_score

_EXPECTED_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess


@dataclass
class _Ahead:
    """The calls ahead to one model, and what its replies so far took, all tries counted."""

    call: CallSettings
    calls: int = 0
    chars: int = 0
    longest: int = 0
    told: int = 0  # replies so far of which the tokens are known
    completion_tokens: int = 0
    priced: int = 0  # replies so far of which the cost is known
    cost_usd: float = 0.0


def dry_run(
    environment: Environment,
    planned: Iterable[tuple[CallSettings, int]],
    passed_over: Counter,
    replies: Iterable[tuple[str, dict]],
) -> int:
    """Print what is ahead; return the exit code.

    `planned` holds (settings, prompt characters) of each call, `passed_over` how many items are
    left out by reason, `replies` (model, what its file says) of those that are there already: they
    tell how long replies are. Asks the providers only for their free lists of models.
    """
    ahead: dict[str, _Ahead] = {}
    for call, size in planned:
        one = ahead.setdefault(call.model, _Ahead(call))
        one.calls += 1
        one.chars += size
        one.longest = max(one.longest, size)
    for model, meta in replies:
        one = ahead.get(model)
        usage = meta.get("usage_all_tries") or meta.get("usage") or {}
        if one and usage.get("completion_tokens"):
            one.told += 1
            one.completion_tokens += usage["completion_tokens"]
        if one and isinstance(meta.get("cost_usd"), (int, float)):
            one.priced += 1
            one.cost_usd += meta["cost_usd"]
    for reason, count in passed_over.most_common():
        if count:
            print(f"  passed over {count:>6}  {reason}")
    if not ahead:
        print("dry run: nothing to ask; a run would send no call.")
        return EXIT_DONE

    lists = asyncio.run(_fetch_lists(environment, {one.call.provider for one in ahead.values()}))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total = 0.0
    unpriced = 0
    for one in ahead.values():
        models = lists[one.call.provider]
        cost = _print_calls(one, {} if isinstance(models, Fault) else models)
        total += cost or 0.0
        unpriced += one.calls if cost is None else 0
    if len(ahead) > 1:
        calls = sum(one.calls for one in ahead.values())
        unknown = f" and {unpriced:,} calls of unknown price" if unpriced else ""
        print(f"  all: {calls:,} calls, about ${total:.2f}{unknown}")
    code = EXIT_DONE
    for name, fault in lists.items():
        if not isinstance(fault, Fault):
            continue
        endpoint = environment.providers[name]
        print(f"  {endpoint.base_url}: {mask_keys(str(fault), environment)[:400]}")
        # A server may have no such list (404): that is no fault of the settings.
        if fault.category == "configuration" and fault.status not in (404, 405):
            print(f"  {fault.told(endpoint)}")
            code = EXIT_STOPPED
        elif fault.reached:
            print("  The model list cannot be had, so prices are unknown.")
        else:
            print(f"  It does not answer. Check {endpoint.url_place}, or start it.")
            code = code or EXIT_SOME_FAILED
    return code


def _print_calls(ahead: _Ahead, models: dict[str, Model]) -> float | None:
    """Print the calls to one model; return their cost, None when no price is known."""
    call = ahead.call
    model = models.get(call.model, Model())
    a_reply = min(call.max_tokens, _EXPECTED_COMPLETION_TOKENS)
    basis = f"a guess of {a_reply:,} a reply"
    if ahead.told:
        a_reply = ahead.completion_tokens / ahead.told
        basis = f"{a_reply:,.0f} a reply, as the {ahead.told:,} so far"
    prompt = round(ahead.chars / CHARS_PER_TOKEN)
    completion = round(ahead.calls * a_reply)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
    cost = model.cost_usd(usage)
    if ahead.priced:
        cost = ahead.calls * ahead.cost_usd / ahead.priced
    told = "price unknown" if cost is None else f"about ${cost:.2f}"
    print(
        f"  {call.model}: {ahead.calls:,} calls, about {prompt:,} tokens in, "
        f"{completion:,} out ({basis}), {told}"
    )
    if models and call.model not in models:
        print("    not on the provider's model list: is the id right?")
    if model.context_tokens:
        longest = int(ahead.longest / CHARS_PER_TOKEN)
        fits = longest + call.max_tokens <= model.context_tokens
        print(
            f"    longest prompt about {longest:,} tokens + max_tokens {call.max_tokens:,} of "
            f"{model.context_tokens:,} context tokens"
            + ("" if fits else ": TOO LONG, such calls will be refused")
        )
    return cost


async def _fetch_lists(
    environment: Environment, providers: set[str]
) -> dict[str, dict[str, Model] | Fault]:
    """Return each provider's models by id, or the fault why they cannot be had."""
    from common.client.wire import Connection  # takes a second

    lists = {}
    for name in sorted(providers):
        connection = Connection(environment.providers[name])
        try:
            lists[name] = await connection.models()
        except Fault as fault:
            lists[name] = fault
        finally:
            await connection.close()
    return lists


def own_replies(side: str) -> Iterator[tuple[str, dict]]:
    """Yield (model, what the file says of it) of each reply of one side that is there."""
    for path in answer_files(None).values():
        try:
            meta = read_answer(path)["meta"][side]
        except BadFile:
            continue
        if meta.get("model"):
            yield meta["model"], meta


def own_verdicts() -> Iterator[tuple[str, dict]]:
    """Yield (judge, verdict) of each verdict on file."""
    for path in turn_files("score"):
        try:
            verdicts = read_score(path)["verdicts"]
        except BadFile:
            continue
        yield from ((verdict["judge"], verdict) for verdict in verdicts)
