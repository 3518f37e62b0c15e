"""Who wrote the replies and verdicts of a run, and what they have taken: tokens and dollars."""

from __future__ import annotations

from collections import Counter, defaultdict

from common.duel.record import LOOKS
from common.duel.verdicts import FIRST_LOOK
from common.report.left_out import dicts
from common.report.markdown import NOTHING
from common.report.rows import Turn


class Writers:
    """Who wrote the replies and verdicts of a run, and what they have taken."""

    def __init__(self):
        # By role, which is a side or a look, and in the first look the judge, else "".
        self.bills: dict[tuple[str, str], Counter] = defaultdict(Counter)
        # By side, or "judge", and the model that was asked: the models that answered.
        self.answered: dict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, turn: Turn) -> None:
        """Add what one turn tells of its writers: replies and verdicts that were replaced, too."""
        meta = turn.answer["meta"] if turn.answer else {}
        for side in ("king", "challenger"):
            if meta.get(side):
                self.charge(side, "", meta[side], str(meta[side].get("model")))
        for paid in dicts([*dicts(meta.get("retired")), meta.get("choosing")]):
            self.charge("challenger", "", paid)
        for verdict in turn.verdicts:
            judge = verdict["judge"]
            if verdict["look"] == FIRST_LOOK:
                self.charge("judge", judge, verdict, judge)
            else:
                self.charge(LOOKS.get(verdict["look"], NOTHING), "", verdict)
                self.answered["judge", judge].add(str(verdict.get("model_answered") or judge))

    def charge(self, role: str, judge: str, reply: dict, asked: str = "") -> None:
        """Add what one reply took, of all its tries, and who answered for the model `asked`."""
        bill = self.bills[role, judge]
        bill["replies"] += 1
        usage = reply.get("usage_all_tries") or reply.get("usage")
        for kind in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage, dict) and isinstance(usage.get(kind), int):
                bill[kind] += usage[kind]
        if isinstance(reply.get("cost_usd"), (int, float)):
            bill["usd"] += reply["cost_usd"]
            bill["priced"] += 1
        if asked:
            self.answered[role, asked].add(str(reply.get("model_answered") or asked))

    def update(self, others: Writers) -> None:
        """Add what others have read."""
        for name, bill in others.bills.items():
            self.bills[name].update(bill)
        for name, models in others.answered.items():
            self.answered[name] |= models

    def named(self, role: str) -> dict[str, str]:
        """Return the models that were asked, each with who else answered in its name."""
        names = {}
        for (its_role, asked), answered in self.answered.items():
            if its_role == role:
                others = ", ".join(sorted(answered - {asked}))
                names[asked] = f"{asked} (answered by: {others})" if others else asked
        return names

    def spent(self, panel: list[str]) -> dict[str, Counter]:
        """Return by name the bill of each writer, judge and further look, and of all together."""
        bills = {}
        for side in ("king", "challenger"):
            names = ", ".join(self.named(side).values()) or NOTHING
            bills[f"{side} by {names}"] = self.bills[side, ""]
        judges = self.named("judge")
        for name in [*panel, *(name for role, name in self.bills if role == "judge")]:
            dropped = "" if name in panel else ", no longer in the panel"
            bills[f"judge {judges.get(name, name)}{dropped}"] = self.bills["judge", name]
        for look in LOOKS.values():
            if self.bills[look, ""]:
                bills[look] = self.bills[look, ""]
        return {**bills, "together": sum(bills.values(), Counter())}
