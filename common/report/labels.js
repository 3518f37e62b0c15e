"use strict";
// Label turns blind. turns.js follows in the same script: its `turns`, `el` and the like are used.

const BATCH = 60;
const NEXT = "Save labels.csv into report/, then run: python report.py";
const CHOICES = { // by key
  ArrowLeft: "← left is better", "=": "level (=)", ArrowRight: "right is better →",
  s: "skip (s)", u: "undo (u)",
};
const labels = new Map(); // turn -> "preferred seconds", in the order of labelling
let labelling = null; // {drawn, turn, sides, since} while it runs

// By the digest of the replies, which knows no score and no name: two thirds from final/.
function draw(count) {
  const bySha = (from) => (one, other) => (one.sha.slice(from) < other.sha.slice(from) ? -1 : 1);
  const pool = turns.filter((turn) => turn.sha).sort(bySha(0));
  const finals = pool.filter((turn) => turn.bucket === "final");
  const others = pool.filter((turn) => turn.bucket !== "final");
  const fromFinal = Math.min(finals.length, Math.round(count * 2 / 3));
  const fromOthers = Math.min(others.length, count - fromFinal);
  const drawn = [...finals.slice(0, count - fromOthers), ...others.slice(0, fromOthers)];
  return drawn.sort(bySha(8)); // the digits that drew a turn would tell where it comes from
}

const batch = () => draw(BATCH * (Math.floor(labels.size / BATCH) + 1));
const storageKey = (turn) => `turns.html label ${turn.stem} ${turn.sha}`;

function loadLabels() {
  try {
    for (const turn of turns) {
      const label = localStorage.getItem(storageKey(turn));
      if (label) labels.set(turn, label);
    }
  } catch {
    // Some browsers refuse it to files: `keep` says so.
  }
}

function keep(turn, label) {
  labels.delete(turn); // so that it comes last
  if (label) labels.set(turn, label);
  try {
    localStorage.setItem(storageKey(turn), label);
  } catch {
    say("This browser keeps no labels: save labels.csv before you close the page.");
  }
}

function startLabelling() {
  if (!turns[0]?.texts) return;
  labelling = { drawn: batch() };
  document.body.classList.add("labelling");
  say("");
  nextLabel();
}

function stopLabelling(message = "") {
  labelling = null;
  document.body.classList.remove("labelling");
  say(message);
  drawTurn();
}

function nextLabel() {
  const { drawn } = labelling;
  const open = drawn.filter((turn) => !labels.has(turn));
  const done = drawn.length - open.length;
  showButtons();
  if (!open.length) return stopLabelling(`All ${done} are labelled. ${NEXT}`);
  const turn = open[0];
  const sides = [turn.opponent, "challenger"];
  if (parseInt(turn.sha[7], 16) % 2) sides.reverse();
  Object.assign(labelling, { turn, sides, since: performance.now() });
  const place = `Turn ${done + 1} of ${drawn.length}`;
  const buttons = Object.entries(CHOICES).map(([value, words]) => el("button", { value }, words));
  $("turn").replaceChildren(
    el("h2", { role: "status" }, `${place}: which reply is the better next step?`),
    el("progress", { max: drawn.length, value: done, "aria-label": "labelled" }),
    context(turn), pair(turn, sides, true), el("div", { class: "choices" }, ...buttons));
  hideMore();
  $("turn").scrollIntoView();
  $("reader").focus({ preventScroll: true });
}

function choose(key) {
  const { drawn, turn, sides, since } = labelling;
  if (key === "u") {
    const last = [...labels.keys()].filter((each) => drawn.includes(each)).at(-1);
    if (last) keep(last, "");
  } else {
    const [left, right] = sides;
    const preferred = { ArrowLeft: left, ArrowRight: right, "=": "level", s: "skip" }[key];
    keep(turn, `${preferred} ${((performance.now() - since) / 1000).toFixed(1)}`);
  }
  nextLabel();
}

function showButtons() {
  const open = batch().filter((turn) => !labels.has(turn)).length;
  $("save").hidden = !labels.size;
  $("save").textContent = `Save labels.csv (${labels.size})`;
  $("label").textContent = labels.size ? `Label ${open} more` : `Label ${open}`;
  $("label").disabled = !open;
}

function saveLabels() {
  const csv = ["stem,preferred,seconds,sha\n"];
  for (const [turn, label] of labels) csv.push(`${turn.stem},${label.replace(" ", ",")},${turn.sha}\n`);
  const url = URL.createObjectURL(new Blob(csv, { type: "text/csv" }));
  el("a", { href: url, download: "labels.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say(NEXT);
}

