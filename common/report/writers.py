"""Who wrote the replies and verdicts of a run, and what they have taken: tokens and dollars."""

from __future__ import annotations

from collections import Counter, defaultdict

from common.report.markdown import NOTHING
from common.report.rows import Turn


class Writers:
    """Who wrote the replies and verdicts of a run, and what the replies have taken."""

    def __init__(self):
        self.bills = {"king": Counter(), "challenger": Counter()}
        # By side, or "judge", and the model that was asked: the models that answered.
        self.answered: dict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, turn: Turn) -> None:
        """Add what one turn tells of its writers; replies that were replaced are billed, too."""
        meta = turn.answer["meta"] if turn.answer else {}
        for side, bill in self.bills.items():
            if meta.get(side):
                bill.update(bill_of(meta[side]))
                self._note(side, str(meta[side].get("model")), meta[side])
        for paid in [*(meta.get("retired") or []), *filter(None, [meta.get("choosing")])]:
            self.bills["challenger"].update(bill_of(paid))
        for verdict in turn.score["verdicts"] if turn.score else []:
            self._note("judge", verdict["judge"], verdict)

    def _note(self, role: str, asked: str, meta: dict) -> None:
        self.answered[role, asked].add(str(meta.get("model_answered") or asked))

    def named(self, role: str) -> dict[str, str]:
        """Return the models that were asked, each with who else answered in its name."""
        names = {}
        for (its_role, asked), answered in self.answered.items():
            if its_role == role:
                others = ", ".join(sorted(answered - {asked}))
                names[asked] = f"{asked} (answered by: {others})" if others else asked
        return names


def bill_of(meta: dict, replies: int = 1) -> Counter:
    """Return replies, tokens and dollars of what has `usage` and `cost_usd`, of all tries."""
    bill = Counter(replies=replies)
    usage = meta.get("usage_all_tries") or meta.get("usage")
    for kind in ("prompt_tokens", "completion_tokens"):
        if isinstance(usage, dict) and isinstance(usage.get(kind), int):
            bill[kind] = usage[kind]
    if isinstance(meta.get("cost_usd"), (int, float)):
        bill["usd"] = meta["cost_usd"]
        bill["priced"] = replies
    return bill


def spent(writers: Writers, duel: dict) -> dict[str, Counter]:
    """Return by name the bill of each writer, judge and further look, and of all together."""
    bills = {}
    for side, bill in writers.bills.items():
        names = ", ".join(writers.named(side).values()) or NOTHING
        bills[f"{side} by {names}"] = bill
    judges = writers.named("judge")
    for name, judge in duel["judges"].items():
        bills[f"judge {judges.get(name, name)}"] = bill_of(judge, judge.get("calls") or 0)
    for name, look in duel["looks"].items():
        if name != "first look":  # that is the judges, above
            bills[name] = bill_of(look, look.get("calls") or 0)
    together = Counter()
    for bill in bills.values():
        together.update(bill)
    return {**bills, "together": together}
