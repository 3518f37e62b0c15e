"""The leak audit on Go, TypeScript, Rust and Java; the code was written for these tests."""

import pytest

from common.audit.leaks import find_leaks
from tests.leak_cases import RECORD, kinds, reply

LANGUAGES = {
    "go": (
        "internal/quota/leaky_bucket.go",
        """@@ -41,8 +41,9 @@ type LeakyBucket struct {
 func (b *LeakyBucket) drainSince(moment time.Time) int64 {
-\telapsed := moment.Sub(b.lastDrip)
+\telapsed := clampElapsed(moment.Sub(b.lastDrip), b.maxDrift)
 \tif elapsed < 0 {
 \t\treturn 0
 \t}
+\tb.driftLog.Record(elapsed)
 \treturn int64(elapsed / b.dripEvery)
 }
""",
    ),
    "typescript": (
        "src/timeline/trackSnapping.ts",
        """@@ -18,7 +18,8 @@ export class TrackSnapper {
   public nearestAnchor(position: number): Anchor | undefined {
-    return this.anchors.find((anchor) => anchor.at === position);
+    const reach = this.snapReach * zoomFactorOf(this.viewport);
+    return minDistanceAnchor(this.anchors, position, reach);
   }
 
   private rebuildAnchors(): void {
     this.anchors = this.clips.flatMap(edgesOfClip);
   }
""",
    ),
    "rust": (
        "crates/ledger/src/carry_over.rs",
        """@@ -77,6 +77,8 @@ impl CarryOver {
     pub fn settle_period(&mut self, period: Period) -> Result<Cents, LedgerError> {
         let open_cents = self.open.get(&period).copied().unwrap_or_default();
+        let rounded_cents = banker_round(open_cents, self.scale_digits);
+        self.audit_trail.push(Settled { period, rounded_cents });
         self.open.remove(&period);
-        Ok(open_cents)
+        Ok(rounded_cents)
     }
""",
    ),
    "java": (
        "server/src/main/java/org/acme/ferry/BerthPlanner.java",
        """@@ -102,7 +102,8 @@ public final class BerthPlanner {
     Optional<Berth> firstFreeBerth(Instant arrival) {
         return berths.stream()
-            .filter(berth -> berth.freeAt(arrival))
+            .filter(berth -> berth.freeBetween(arrival, arrival.plus(mooringTime)))
+            .filter(tideTable::isDeepEnough)
             .findFirst();
     }
""",
    ),
}
OTHER_TASK = [
    {"role": "user", "content": "Please solve: totals are off by one at the end of a period."}
]


def other_record(language: str) -> dict:
    path, hunk = LANGUAGES[language]
    return {**RECORD, "files": [path], "patch": f"--- a/{path}\n+++ b/{path}\n{hunk}"}


@pytest.mark.parametrize("language, kind, text", [
    ("go", "path", reply("cat internal/quota/leaky_bucket.go")),
    ("go", "path", reply("cd internal/quota && gofmt -d leaky_bucket.go")),
    ("go", "identifier", reply("ls", "`clampElapsed` is missing.")),
    ("go", "identifier", reply("grep -rn drainSince .")),
    ("go", "identifier", reply("ls", "The struct `LeakyBucket` counts wrongly.")),
    ("go", "verbatim", reply("ls", "We want `b.driftLog.Record(elapsed)` there.")),
    ("go", "line", reply("sed -n '38,46p' internal/quota/leaky_bucket.go")),
    ("typescript", "path", reply("ls", "See src/timeline/trackSnapping.ts.")),
    ("typescript", "path", reply("node -e \"require('./src/timeline/trackSnapping')\"")),
    ("typescript", "identifier", reply("grep -rn 'rebuildAnchors' src")),
    ("typescript", "identifier", reply("ls", "`minDistanceAnchor` is what we want.")),
    ("typescript", "verbatim", reply("ls",
    "return minDistanceAnchor(this.anchors, position, reach);")),
    ("typescript", "line", reply("sed -n '18,24p' src/timeline/trackSnapping.ts")),
    ("rust", "path", reply("cat crates/ledger/src/carry_over.rs")),
    ("rust", "path", reply("ls", "It is in `ledger::carry_over`.")),
    ("rust", "identifier", reply("rg banker_round")), ("rust", "identifier",
    reply("rg 'fn settle_period'")),
    ("rust", "verbatim", reply("ls",
    "let rounded_cents = banker_round(open_cents, self.scale_digits);")),
    ("rust", "line", reply("ls", "Lines 77-84 of crates/ledger/src/carry_over.rs are wrong.")),
    ("java", "path", reply("cat server/src/main/java/org/acme/ferry/BerthPlanner.java")),
    ("java", "path", reply("ls", "org.acme.ferry.BerthPlanner is at fault.")),
    ("java", "identifier", reply("grep -rn firstFreeBerth .")),
    ("java", "identifier", reply("ls", "`freeBetween` would do.")),
    ("java", "verbatim", reply("grep -rnF 'filter(berth -> berth.freeAt(arrival))' .")),
    ("java", "line",
    reply("head -n 108 server/src/main/java/org/acme/ferry/BerthPlanner.java | tail -n 7")),
])  # fmt: skip
def test_leaks_of_other_languages(language, kind, text):
    assert kind in kinds(text, OTHER_TASK, other_record(language))


@pytest.mark.parametrize("text", [
    reply("ls -R | head -50"), reply("grep -rn 'period' --include='*.go' ."),
    reply("find . -name '*.rs'"),
    reply("grep -rn 'total' src | head", "The end of a period is probably cut off."),
    reply("cat go.mod Cargo.toml package.json pom.xml"), reply("git log --oneline -5"),
    reply("ls",
    "I'd look for `unwrap_or_default`, `flatMap`, `Optional`, `time.Time` or `HashMap` first."),
])  # fmt: skip
@pytest.mark.parametrize("language", LANGUAGES)
def test_honest_moves_in_other_languages_are_clean(language, text):
    assert find_leaks(text, OTHER_TASK, other_record(language)) == []
