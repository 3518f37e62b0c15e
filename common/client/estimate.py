"""The dry run: what is ahead, what it would cost, and whether the providers are there at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from common.cli import EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED
from common.client.advice import advice
from common.client.costs import CHARS_PER_TOKEN, Model
from common.client.faults import Fault
from common.client.provider import Provider, mask_keys
from common.client.watch import Watch
from common.config import CallSettings, Environment
from common.files import BadFile, turn_files
from common.turns import answer_files, read_answer, read_score

_EXPECTED_COMPLETION_TOKENS = 3000  # a thinking model's usual reply to one turn; a guess


@dataclass
class Past:
    """What replies of one model took so far, all tries counted."""

    replies: int = 0
    told: int = 0  # replies of which the tokens are known
    tokens: Counter = field(default_factory=Counter)
    last_prompt_tokens: int = 0  # of the last try of each
    priced: int = 0
    cost_usd: float = 0.0

    def add(self, meta: dict) -> None:
        """Count one reply by what its file says of it."""
        self.replies += 1
        last = meta.get("usage") or {}
        usage = meta.get("usage_all_tries") or last
        if usage.get("completion_tokens"):
            self.told += 1
            self.tokens.update(usage)
            self.last_prompt_tokens += last.get("prompt_tokens") or 0
        if isinstance(meta.get("cost_usd"), (int, float)):
            self.priced += 1
            self.cost_usd += meta["cost_usd"]


@dataclass
class Ahead:
    """The calls ahead to one model."""

    call: CallSettings
    calls: int = 0
    chars: int = 0
    longest: int = 0

    def usage(self, past: Past) -> dict:
        """Return the tokens to expect."""
        prompt = self.chars / CHARS_PER_TOKEN
        reply = min(self.call.max_tokens, _EXPECTED_COMPLETION_TOKENS)
        cached = 0.0
        if past.told:
            reply = past.tokens["completion_tokens"] / past.told
            if past.last_prompt_tokens:
                prompt *= past.tokens["prompt_tokens"] / past.last_prompt_tokens
                cached = prompt * past.tokens["cached_tokens"] / past.tokens["prompt_tokens"]
        return {
            "prompt_tokens": round(prompt),
            "completion_tokens": round(self.calls * reply),
            "cached_tokens": round(cached),
        }


def dry_run(
    environment: Environment,
    planned: Iterable[tuple[CallSettings, int, int]],
    passed_over: Counter | None = None,
    replies: Iterable[tuple[str, dict]] = (),
) -> int:
    """Print what is ahead; return the exit code.

    `planned` holds (settings, prompt characters, calls) for each item, `passed_over` how many items
    are left out by reason, `replies` (model, what its file says) of those that are there already:
    they tell how long replies are. Asks the providers only for their free lists of models.
    """
    ahead: dict[tuple[str, str], Ahead] = {}
    for call, size, count in planned:
        if count:
            one = ahead.setdefault((call.provider, call.model), Ahead(call))
            one.calls += count
            one.chars += size * count
            one.longest = max(one.longest, size)
    for reason, count in (passed_over or Counter()).most_common():
        if count:
            print(f"  passed over {count:>6}  {reason}")
    if not ahead:
        print("dry run: nothing to ask; a run would send no call.")
        return EXIT_DONE
    past: dict[str, Past] = {}
    for model, meta in replies:
        past.setdefault(model, Past()).add(meta)
    found = asyncio.run(_fetch_lists(environment, {name for name, _ in ahead}))
    print("dry run: no call was sent. Ahead, if every first reply is good:")
    total = 0.0
    unpriced = 0
    for one in ahead.values():
        models = found[one.call.provider]
        models = models if isinstance(models, dict) else {}
        cost = _print_calls(one, past.get(one.call.model, Past()), models)
        total += cost or 0.0
        unpriced += one.calls if cost is None else 0
    if len(ahead) > 1:
        unknown = f" and {unpriced:,} calls of unknown price" if unpriced else ""
        calls = sum(one.calls for one in ahead.values())
        print(f"  all: {calls:,} calls, about ${total:.2f}{unknown}")
    return _print_faults(environment, found)


def _print_calls(ahead: Ahead, past: Past, models: dict[str, Model]) -> float | None:
    """Print the calls to one model; return their cost, None when no price is known."""
    call = ahead.call
    model = models.get(call.model, Model())
    usage = ahead.usage(past)
    cost = model.cost_usd(usage)
    told = f"about ${cost:.2f}" if cost is not None else "price unknown"
    if cost is None and past.priced:
        cost = ahead.calls * past.cost_usd / past.priced
        told = f"about ${cost:.2f}, as the replies so far"
    a_reply = usage["completion_tokens"] / ahead.calls
    basis = f"a guess of {a_reply:,.0f} a reply"
    if past.told:
        basis = f"{a_reply:,.0f} a reply, as the {past.told:,} so far"
    print(
        f"  {call.model}: {ahead.calls:,} calls, about {usage['prompt_tokens']:,} tokens in, "
        f"{usage['completion_tokens']:,} out ({basis}), {told}"
    )
    if models and call.model not in models:
        print("    not on the provider's model list: is the id right?")
    if model.context_tokens:
        longest = int(ahead.longest / CHARS_PER_TOKEN)
        fits = "fits"
        if longest + call.max_tokens > model.context_tokens:
            fits = "TOO LONG: such calls will be refused"
        print(
            f"    longest prompt about {longest:,} tokens + max_tokens {call.max_tokens:,} "
            f"of {model.context_tokens:,} context tokens: {fits}"
        )
    return cost


def _print_faults(environment: Environment, found: dict[str, dict[str, Model] | Fault]) -> int:
    """Say which provider is not there or refuses the key; return the exit code."""
    code = EXIT_DONE
    for name, fault in found.items():
        if not isinstance(fault, Fault):
            continue
        endpoint = environment.providers[name]
        words = f"{endpoint.base_url}: {mask_keys(str(fault), environment)[:400]}"
        if fault.status in (401, 403) or fault.meaning == "key":
            print(f"  {words}\n  {advice(fault, endpoint)}")
            code = EXIT_STOPPED
        elif not fault.reached:
            print(f"  {words}\n  It does not answer. Check {endpoint.url_place}, or start it.")
            code = code or EXIT_SOME_FAILED
        elif fault.status is not None and fault.status < 400:
            print(f"  {words}\n  {advice(fault, endpoint)}")
            code = EXIT_STOPPED
        else:
            print(f"  {endpoint.base_url}: the model list cannot be had, so prices are unknown")
    return code


async def _fetch_lists(
    environment: Environment, names: set[str]
) -> dict[str, dict[str, Model] | Fault]:
    """Return each provider's models by id, or why they cannot be had."""
    found = {}
    for name in sorted(names):
        provider = Provider(environment.providers[name], Watch(lambda seconds: None))
        try:
            found[name] = await provider.models()
        except Fault as fault:
            found[name] = fault
        finally:
            await provider.close()
    return found


def own_replies(side: str) -> Iterator[tuple[str, dict]]:
    """Yield (model, what the file says of it) of each reply of one side that is there."""
    for path in answer_files(None).values():
        try:
            meta = read_answer(path)["meta"][side]
        except (BadFile, KeyError, TypeError):
            continue
        if isinstance(meta, dict) and meta.get("model"):
            yield meta["model"], meta


def own_verdicts() -> Iterator[tuple[str, dict]]:
    """Yield (judge, verdict) of each verdict on file."""
    for path in turn_files("score"):
        try:
            verdicts = read_score(path)["verdicts"]
        except BadFile:
            continue
        yield from ((verdict["judge"], verdict) for verdict in verdicts)
