"use strict";
// Draw the list of turns, show one turn at a time, take labels. Every text comes from a model or a
// dataset: it becomes a text node or an attribute that nothing runs, never markup.

const $ = (id) => document.getElementById(id);
const run = JSON.parse($("facts").textContent); // judges, metrics, turns: what the list needs
const turns = run.turns;
let texts = null; // tasks, and by turn its replies and verdicts; comes later when it is packed
let sorted = turns;
let current = null; // the turn that is shown

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const dim = (...words) => el("span", { class: "dim" }, ...words);
const points = (score) => (score === null ? "–" : score.toFixed(1));
const link = (turn) => `#${encodeURIComponent(turn.stem)}`;

async function unpack(block) {
  const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// ------------------------------------------------------------------------------------- the list

const SORTS = {
  given: (turn) => turn.place,
  best: (turn) => -(turn.score ?? -1),
  worst: (turn) => turn.score ?? 101,
  spread: (turn) => -turn.spread,
  longest: (turn) => -turn.length,
  shortest: (turn) => turn.length,
};

function drawList() {
  const choices = { bucket: new Set(), style: new Set(), mark: new Set(), export: new Set() };
  turns.forEach((turn, place) => {
    turn.place = place;
    turn.bucketOrStatus = turn.bucket || turn.status;
    const flags = turn.marks.length ? `⚑${turn.marks.length} ` : "";
    turn.entry = el("a", { class: `entry ${turn.bucket}`, href: link(turn), tabindex: -1 },
      el("b", {}, points(turn.score)), el("span", {}, turn.bucketOrStatus),
      dim(turn.style), dim(`${flags}↕${turn.spread}`),
      el("span", { class: "instance", title: turn.instance }, turn.instance));
    turn.entry.dataset.turn = turn.stem;
    turn.entry.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
      event.preventDefault();
      show(turn);
    });
    $("list").append(turn.entry);
    choices.bucket.add(turn.bucketOrStatus);
    choices.style.add(turn.style);
    choices.export.add(turn.export);
    for (const mark of turn.marks) choices.mark.add(mark);
  });
  for (const [name, values] of Object.entries(choices)) {
    values.delete("");
    const options = [...values].sort().map((value) => el("option", { value }, value));
    $("filters").elements[name].append(...options);
  }
}

function findWords() { // what the filter looks through
  for (const turn of turns) {
    const text = texts?.turns[turn.place] ?? { observation: "", replies: [], verdicts: [] };
    turn.words = [turn.stem, turn.instance, turn.repo, turn.bucketOrStatus, turn.why, turn.style,
      turn.export, ...turn.marks, text.observation, ...text.replies,
      ...text.verdicts.map((verdict) => verdict[3])].join("\n").toLowerCase();
  }
}

function passes(turn, wanted, words) {
  const far = Number(wanted.spread); // negative: at most so far apart
  if (far > 0 && turn.spread < far) return false;
  if (far < 0 && turn.spread > -far) return false;
  if (wanted.bucket && wanted.bucket !== turn.bucketOrStatus) return false;
  if (wanted.style && wanted.style !== turn.style) return false;
  if (wanted.export && wanted.export !== turn.export) return false;
  if (wanted.mark === "*" && !turn.marks.length) return false;
  if (wanted.mark && wanted.mark !== "*" && !turn.marks.includes(wanted.mark)) return false;
  return words.every((word) => turn.words.includes(word));
}

function applyFilters() {
  const wanted = Object.fromEntries(new FormData($("filters")));
  const words = wanted.text.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const turn of turns) {
    const passed = passes(turn, wanted, words);
    if (turn.entry.hidden === passed) turn.entry.hidden = !passed;
    if (passed) shown += 1;
  }
  $("count").textContent = `${shown} of ${turns.length} turns`;
}

function applySort() {
  const key = SORTS[$("filters").elements.sort.value];
  sorted = [...turns].sort((one, other) => key(one) - key(other) || one.place - other.place);
  const list = document.createDocumentFragment();
  for (const turn of sorted) list.append(turn.entry);
  $("list").append(list);
  current?.entry.scrollIntoView({ block: "nearest" });
}

function move(by) {
  const visible = sorted.filter((turn) => !turn.entry.hidden);
  const place = visible.indexOf(current);
  const next = visible[place < 0 ? 0 : place + by];
  if (next) show(next);
}

// ------------------------------------------------------------------------------------- one turn

function show(turn, scroll = true) {
  current?.entry.removeAttribute("aria-current");
  current?.entry.setAttribute("tabindex", -1);
  current = turn;
  turn.entry.setAttribute("aria-current", "true");
  turn.entry.setAttribute("tabindex", 0);
  turn.entry.scrollIntoView({ block: "nearest" });
  say("");
  drawTurn();
  if (scroll) $("turn").scrollIntoView();
  $("reader").focus({ preventScroll: true }); // so that Space and arrows scroll it
  history.replaceState(null, "", link(turn)); // last: Safari refuses it while a key is held down
}

function drawTurn() {
  if (!current || labelling) return;
  document.title = `${current.stem} · turns`;
  const text = texts?.turns[current.place];
  if (!text) return $("turn").replaceChildren("Unpacking …");
  $("turn").replaceChildren(head(current), context(text), pair(current, text, [0, 1]),
    panel(current, text, 1), panel(current, text, 2));
}

function head(turn) {
  const facts = [`reply ${turn.step}`, turn.style, `judges ${turn.spread} points apart`];
  if (turn.confirmed !== null) facts.push(`with the second look ${points(turn.confirmed)}`);
  if (turn.export) facts.push(`export: ${turn.export}`);
  if (labels.has(turn.stem)) facts.push(`your label: ${labels.get(turn.stem).preferred}`);
  if (turn.marks.length) facts.push(`⚑ ${turn.marks.join(", ")}`);
  return el("header", {},
    el("div", { class: "head" }, el("span", { class: "score" }, points(turn.score)),
      el("b", {}, turn.bucketOrStatus), dim(turn.why), el("a", { href: link(turn) }, turn.stem),
      turn.file ? el("a", { href: `../${turn.file}` }, "whole chat") : ""),
    el("div", {}, [turn.instance, turn.repo].filter(Boolean).join(" · ")),
    el("div", { class: "dim" }, facts.filter(Boolean).join(" · ")));
}

function context(text) {
  const parts = { "The task": texts.tasks[text.task], "What the agent had just seen": text.observation };
  const boxes = Object.entries(parts).filter((part) => part[1]).map(([title, content]) => {
    const box = el("pre", { tabindex: 0 }, content);
    const more = el("button", { class: "more" }, "more");
    more.addEventListener("click", () => {
      more.textContent = box.classList.toggle("whole") ? "less" : "more";
    });
    const details = el("details", { open: "" }, el("summary", {}, title), box, more);
    details.addEventListener("toggle", () => { // comes once when it is drawn, too
      more.hidden = more.textContent === "more" && box.scrollHeight <= box.clientHeight;
    });
    return details;
  });
  return el("div", { class: "context pair" }, ...boxes);
}

// The two replies, in the order of `sides` (0: king or reference, 1: challenger). A blind reader sees
// neither names nor findings.
function pair(turn, text, sides, blind = false) {
  const changed = differences(text.replies[0], text.replies[1]);
  const boxes = sides.map((side, place) => {
    const name = [turn.opponent, "challenger"][side];
    const section = el("section", {}, el("h2", {}, blind ? ["← left", "right →"][place] : name));
    const ranges = changed ? [...changed[side]] : [];
    if (!blind) {
      for (const hit of text.leaks[side]) {
        const words = `Leak audit, ${hit.kind}: ${hit.text} – ${hit.why}`;
        section.append(el("p", { class: "alert" }, words));
        ranges.push(...places(text.replies[side], hit.text, "leak"));
      }
      const problem = text.problems[side];
      if (problem) section.append(el("p", { class: "alert" }, `Protocol: ${problem}`));
      for (const [, word] of problem.matchAll(/`([^`\s]+)`/g)) {
        ranges.push(...places(text.replies[side], word, "leak"));
      }
    }
    section.append(reply(text.replies[side], ranges, name, !blind && text.problems[side]));
    return section;
  });
  const note = changed ? "" : "Too unlike, or too long, to mark what differs.";
  return el("div", {}, el("div", { class: "pair" }, ...boxes), el("p", { class: "dim" }, note));
}

function places(text, needle, kind) {
  const ranges = [];
  let start = needle ? text.indexOf(needle) : -1;
  while (start >= 0 && ranges.length < 50) {
    ranges.push({ start, end: start + needle.length, kind });
    start = text.indexOf(needle, start + needle.length);
  }
  return ranges;
}

// A reply with its commands set off; its text stays, character by character, what it was.
function reply(text, ranges, name, problem) {
  const box = el("div", { class: "reply", "data-reply": name, tabindex: 0 });
  let end = 0;
  for (const match of text.matchAll(/```bash[^\S\n]*\n[^]*?\n```/g)) {
    box.append(...pieces(text, end, match.index, ranges));
    end = match.index + match[0].length;
    box.append(el("span", { class: problem ? "command problem" : "command" },
      ...pieces(text, match.index, end, ranges)));
  }
  box.append(...pieces(text, end, text.length, ranges));
  return box;
}

// The text from start to end, cut at the edges of the ranges, each piece marked by those over it.
function pieces(text, start, end, ranges) {
  const over = ranges.filter((range) => range.start < end && range.end > start);
  const edges = [start, end, ...over.map((range) => Math.max(range.start, start)),
    ...over.map((range) => Math.min(range.end, end))].sort((one, other) => one - other);
  const nodes = [];
  for (let at = 0; at + 1 < edges.length; at += 1) {
    const [from, to] = [edges[at], edges[at + 1]];
    if (from === to) continue;
    const here = over.filter((range) => range.start <= from && range.end > from);
    const piece = text.slice(from, to);
    const kinds = here.map((range) => range.kind).join(" ");
    nodes.push(kinds ? el("mark", { class: kinds }, piece) : piece);
  }
  return nodes;
}

// -------------------------------------------------------------------------------- the differences

const WORDS = /\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu;
const LINES = /[^\n]*\n|[^\n]+/g;
const MOST_CELLS = 2_000_000; // of the table below: some 30 ms
const LEAST_RUN = 2; // words in a row that count as the same: a lone "the" does not ...
const LEAST_SIGNS = 4; // ... but a line end and a fence do
const LEAST_SHARED = 0.3; // of the shorter text's words; below, the marks would cover everything

// Where two texts differ, as ranges of the first and of the second: by words, of long texts by lines;
// null when they are too unlike or too long.
function differences(first, second) {
  for (const pattern of [WORDS, LINES]) {
    const one = first.match(pattern) ?? [];
    const two = second.match(pattern) ?? [];
    if ((one.length + 1) * (two.length + 1) > MOST_CELLS) continue;
    const same = commonRuns(one, two, pattern === WORDS ? LEAST_RUN : 1);
    const least = LEAST_SHARED * Math.min(one.filter(isWord).length, two.filter(isWord).length);
    if (same.words < least) return null;
    return [changedRanges(one, same.first), changedRanges(two, same.second)];
  }
  return null;
}

function isWord(token) {
  return /[\p{L}\p{N}]/u.test(token);
}

// The places of the longest common subsequence, without its runs of fewer than `least` words.
function commonRuns(one, two, least) {
  const width = two.length + 1;
  const length = new Uint16Array((one.length + 1) * width); // of the tokens from i and from j on
  for (let i = one.length - 1; i >= 0; i -= 1) {
    for (let j = two.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      if (one[i] === two[j]) length[at] = length[at + width + 1] + 1;
      else length[at] = Math.max(length[at + width], length[at + 1]);
    }
  }
  const same = { first: new Set(), second: new Set(), words: 0 };
  let i = 0;
  let j = 0;
  while (i < one.length && j < two.length) {
    let run = 0;
    let words = 0;
    while (i + run < one.length && one[i + run] === two[j + run]) {
      if (isWord(one[i + run])) words += 1;
      run += 1;
    }
    if (words >= least || run >= LEAST_SIGNS) {
      for (let step = 0; step < run; step += 1) {
        same.first.add(i + step);
        same.second.add(j + step);
      }
      same.words += words;
    }
    i += run;
    j += run;
    if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return same;
}

function changedRanges(tokens, same) {
  const ranges = [];
  let start = 0;
  tokens.forEach((token, place) => {
    const end = start + token.length;
    if (!same.has(place) && ranges.at(-1)?.end === start) ranges.at(-1).end = end;
    else if (!same.has(place)) ranges.push({ start, end, kind: "word" });
    start = end;
  });
  return ranges;
}

// ------------------------------------------------------------------------------------ the judges

const ORDERS = ["challenger first", "challenger second"];

function panel(turn, text, look) {
  const judges = new Map(); // judge -> its verdicts by order
  for (const [judge, order, calls, reason, its] of text.verdicts) {
    if (its !== look) continue;
    if (!judges.has(judge)) judges.set(judge, [null, null]);
    judges.get(judge)[order] = { calls, reason };
  }
  if (!judges.size) return look === 1 ? el("p", { class: "dim" }, "No verdict yet.") : "";
  const rows = [];
  for (const [judge, both] of [...judges].sort((one, other) => one[0] - other[0])) {
    const reasons = both.map((verdict, order) => (
      verdict?.reason ? el("p", {}, dim(`${ORDERS[order]}: `), verdict.reason) : ""));
    rows.push(el("tr", {}, el("th", { scope: "row" }, run.judges[judge]),
      ...run.metrics.map((metric, place) => callCell(turn, both, metric, place)),
      el("td", {}, look === 1 ? points(turn.judges[judge]) : "")));
    const wide = { class: "reasons", colspan: run.metrics.length + 2 };
    rows.push(el("tr", {}, el("td", wide, ...reasons)));
  }
  if (look === 1) {
    rows.push(el("tr", {}, el("th", { scope: "row" }, "all"),
      ...turn.metrics.map((score) => el("td", {}, score === null ? "–" : score.toFixed(0))),
      el("td", {}, points(turn.score))));
  }
  const opponentLetter = turn.opponent[0].toUpperCase();
  const names = ["", ...run.metrics, "score"].map((name) => el("th", { scope: "col" }, name));
  return el("section", {}, el("h2", {}, look === 1 ? "The judges" : "The second look"),
    el("p", { class: "dim" }, "Two calls each: with the challenger shown first, then second. "
      + `C: challenger better, ${opponentLetter}: ${turn.opponent} better, =: level.`),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ...names)), el("tbody", {}, ...rows))));
}

function callCell(turn, both, metric, place) {
  const calls = both.map((verdict) => verdict?.calls[place] ?? "?");
  const flips = calls[0] !== calls[1] && !calls.includes("?") ? "flip" : "";
  return el("td", { class: "calls" }, ...calls.map((call, order) => {
    const kind = { C: "win", O: "loss", "=": "level", "?": "none" }[call];
    const words = { C: "challenger better", O: `${turn.opponent} better`, "=": "level" }[call];
    const title = `${metric}, ${ORDERS[order]}: ${words ?? "no verdict"}`;
    const attributes = { class: `call ${kind} ${flips}`, role: "img", "aria-label": title, title };
    return el("span", attributes, call === "O" ? turn.opponent[0].toUpperCase() : call);
  }));
}

// ------------------------------------------------------------------------------------- labelling

const BATCH = 60;
const NEXT = "Save labels.csv into report/, then run: python report.py";
const CHOICES = {
  left: "← left is better", level: "level (=)", right: "right is better →", skip: "skip (s)", undo: "undo (u)",
};
const labels = new Map(); // stem -> what a person said of the replies as they are now
let labelling = null; // {drawn, turn, sides, since} while it runs
let storage = null;
try {
  storage = window.localStorage;
} catch {
  // Some browsers refuse it to files: labels then last until the page is closed.
}

// By the digest of the replies, which knows no score and no name: two thirds from final/.
function draw(count) {
  const pool = turns.filter((turn) => turn.labels);
  pool.sort((one, other) => (one.sha < other.sha ? -1 : 1));
  const finals = pool.filter((turn) => turn.bucket === "final");
  const others = pool.filter((turn) => turn.bucket !== "final");
  const fromFinal = Math.min(finals.length, Math.round(count * 2 / 3));
  const fromOthers = Math.min(others.length, count - fromFinal);
  const drawn = [...finals.slice(0, count - fromOthers), ...others.slice(0, fromOthers)];
  // In the order of later digits: those that drew a turn would tell where it comes from.
  return drawn.sort((one, other) => (one.sha.slice(8) < other.sha.slice(8) ? -1 : 1));
}

function batch() {
  return draw(BATCH * (Math.floor(labels.size / BATCH) + 1));
}

function storageKey(turn) {
  return `turns.html label ${turn.stem} ${turn.sha}`;
}

function loadLabels() {
  for (const turn of turns) {
    const saved = storage?.getItem(storageKey(turn));
    if (!saved) continue;
    const [preferred, seconds] = saved.split(" ");
    labels.set(turn.stem, { preferred, seconds });
  }
}

function startLabelling() {
  if (!texts) return;
  labelling = { drawn: batch() };
  document.body.classList.add("labelling");
  $("stop").hidden = false;
  say("");
  nextLabel();
}

function stopLabelling(message = "") {
  labelling = null;
  document.body.classList.remove("labelling");
  $("stop").hidden = true;
  say(message);
  drawTurn();
}

function nextLabel() {
  const { drawn } = labelling;
  const open = drawn.filter((turn) => !labels.has(turn.stem));
  const done = drawn.length - open.length;
  showButtons();
  if (!open.length) {
    return stopLabelling(`All ${done} are labelled. ${NEXT}`);
  }
  const left = parseInt(open[0].sha[7], 16) % 2; // which side stands left
  Object.assign(labelling, { turn: open[0], sides: [left, 1 - left], since: performance.now() });
  const progress = `Turn ${done + 1} of ${drawn.length}`;
  document.title = progress;
  const text = texts.turns[open[0].place];
  const buttons = Object.entries(CHOICES).map(([name, words]) => {
    const button = el("button", { "data-choice": name }, words);
    button.addEventListener("click", () => choose(name));
    return button;
  });
  $("turn").replaceChildren(
    el("h2", { role: "status" }, `${progress}: which reply is the better next step?`),
    el("progress", { max: drawn.length, value: done, "aria-label": "labelled" }),
    context(text), pair(open[0], text, labelling.sides, true),
    el("div", { class: "choices" }, ...buttons));
  $("reader").scrollTo(0, 0);
  window.scrollTo(0, 0);
  $("reader").focus({ preventScroll: true });
}

function choose(name) {
  const { drawn, turn, sides, since } = labelling;
  if (name === "undo") {
    const last = [...labels.keys()].at(-1); // in the order in which they were given
    const undone = drawn.find((each) => each.stem === last);
    if (undone) keep(undone, null);
  } else {
    const names = [turn.opponent, "challenger"];
    const preferred = { left: names[sides[0]], right: names[sides[1]] }[name] ?? name;
    keep(turn, { preferred, seconds: ((performance.now() - since) / 1000).toFixed(1) });
  }
  nextLabel();
}

function keep(turn, label) {
  if (label) labels.set(turn.stem, label);
  else labels.delete(turn.stem);
  try {
    if (label) storage?.setItem(storageKey(turn), `${label.preferred} ${label.seconds}`);
    else storage?.removeItem(storageKey(turn));
  } catch {
    storage = null;
  }
  if (!storage) say("This browser keeps no labels: save labels.csv before you close the page.");
}

function showButtons() {
  const open = batch().filter((turn) => !labels.has(turn.stem)).length;
  $("save").hidden = !labels.size;
  $("save").textContent = `Save labels.csv (${labels.size})`;
  $("label").textContent = labels.size ? `Label ${open} more` : `Label ${open}`;
  $("label").disabled = !open;
}

function saveLabels() {
  const lines = ["stem,preferred,seconds,sha"];
  for (const turn of turns) {
    const label = labels.get(turn.stem);
    if (label) lines.push([turn.stem, label.preferred, label.seconds, turn.sha].join(","));
  }
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  el("a", { href: url, download: "labels.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say(NEXT);
}

function say(message) {
  $("message").textContent = message;
}

// ------------------------------------------------------------------------------------------ keys

const READING = { j: () => move(1), k: () => move(-1), "/": () => $("filter").focus() };
const LABELLING = {
  ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), Escape: () => stopLabelling(),
  "=": () => choose("level"), 0: () => choose("level"), s: () => choose("skip"), u: () => choose("undo"),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  let action = (labelling ? LABELLING : READING)[event.key];
  if (event.key === "?") action = () => $("help").showModal();
  if (event.target === $("filter")) { // Escape would clear it
    action = ["Enter", "Escape"].includes(event.key) ? () => $("reader").focus() : null;
  }
  if (!action) return;
  event.preventDefault();
  action();
}

function showLinked() {
  if (labelling) return;
  const asked = location.hash;
  const turn = turns.find((each) => link(each) === asked);
  if (turn && turn !== current) show(turn);
  else if (!current && turns.length) show(turns[0], false);
  if (!turn && asked.length > 1) say(`There is no turn ${asked} on this page.`);
}

function start(unpacked) {
  texts = unpacked;
  findWords();
  applyFilters();
  drawTurn();
}

drawList();
loadLabels();
findWords();
applyFilters();
showButtons();
$("filters").addEventListener("input", (event) => {
  if (event.target.name === "sort") applySort();
  else applyFilters();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("label").addEventListener("click", startLabelling);
$("stop").addEventListener("click", () => stopLabelling());
$("save").addEventListener("click", saveLabels);
$("ask").addEventListener("click", () => $("help").showModal());
$("overview").open = window.innerWidth > 960;
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", showLinked);
if ($("texts").type === "application/json") start(JSON.parse($("texts").textContent));
else unpack($("texts")).then(start);
showLinked();
