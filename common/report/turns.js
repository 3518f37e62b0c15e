// Draw the list of turns and show one turn at a time; labels.js comes before this. Every text comes
// from a model or a dataset: it becomes a text node or an attribute that nothing runs, never markup.

const $ = (id) => document.getElementById(id);
const { metrics, turns } = JSON.parse($("facts").textContent); // what the list needs
let sorted = turns;
let current = null; // the turn that is shown

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const dim = (...words) => el("span", { class: "dim" }, ...words);
const points = (score, digits = 1) => score?.toFixed(digits) ?? "–";
const link = (turn) => `#${encodeURIComponent(turn.stem)}`;
const say = (message) => { $("message").textContent = message; };

// ------------------------------------------------------------------------------------- the list

function drawList() {
  turns.forEach((turn, place) => {
    turn.place = place;
    turn.choices = { // by the name of the filter
      bucket: [turn.bucket || turn.status],
      style: [turn.style],
      export: [turn.exported],
      mark: turn.marks.length ? ["any", ...turn.marks] : [],
    };
    const flags = turn.marks.length ? `⚑${turn.marks.length} ` : "";
    const its = { class: `entry ${turn.bucket ?? ""}`, "data-turn": turn.stem, tabindex: -1 };
    turn.entry = el("a", { ...its, href: link(turn) },
      el("b", {}, points(turn.score)), el("span", {}, turn.bucket || turn.status),
      dim(turn.style), dim(`${flags}↕${points(turn.spread, 0)}`),
      el("span", { class: "instance", title: turn.instance_id }, turn.instance_id));
  });
  $("list").append(...turns.map((turn) => turn.entry));
  for (const name of ["bucket", "style", "mark", "export"]) {
    const values = [...new Set(turns.flatMap((turn) => turn.choices[name]).filter(Boolean))].sort();
    $("filters").elements[name].append(...values.map((value) => el("option", { value }, value)));
  }
}

function findWords() { // what the filter looks through
  for (const turn of turns) {
    const { chat, verdicts, replies } = turn.texts ?? { chat: [[]], verdicts: [], replies: {} };
    turn.words = [turn.stem, turn.instance_id, turn.repo, turn.why, chat.at(-1)[1],
      ...Object.values(turn.choices).flat(), ...verdicts.map((verdict) => verdict.reason),
      ...Object.values(replies)].join("\n").toLowerCase();
  }
}

function applyFilters() {
  const { text, spread, sort, ...chosen } = Object.fromEntries(new FormData($("filters")));
  const words = text.toLowerCase().split(/\s+/);
  const far = Number(spread); // negative: at most so far apart
  const wanted = Object.entries(chosen).filter(([, value]) => value);
  let shown = 0;
  for (const turn of turns) {
    const passes = (far < 0 ? turn.spread <= -far : turn.spread >= far)
      && wanted.every(([name, value]) => turn.choices[name].includes(value))
      && words.every((word) => turn.words.includes(word));
    if (turn.entry.hidden === passes) turn.entry.hidden = !passes;
    if (passes) shown += 1;
  }
  $("count").textContent = `${shown} of ${turns.length} turns`;
  $("clear").hidden = !text && !spread && !wanted.length;
}

function filterTurns() { // a turn that is filtered out leaves the pane
  applyFilters();
  if (current && !current.entry.hidden) return;
  current?.entry.removeAttribute("aria-current");
  current = null;
  const first = sorted.find((turn) => !turn.entry.hidden);
  if (first) show(first, false, false);
  else $("turn").replaceChildren("No turn passes these filters.");
}

function clearFilters() { // the order stays
  for (const field of $("filters").elements) if (field.name !== "sort") field.value = "";
  filterTurns();
}

function applySort() {
  const [name, sign] = $("filters").elements.sort.value.split(" ");
  const key = (turn) => sign * (turn[name] ?? sign * 1000); // turns without a score come last
  sorted = [...turns].sort((one, other) => key(one) - key(other));
  $("list").append(...sorted.map((turn) => turn.entry));
}

function move(by) {
  const listed = sorted.filter((turn) => !turn.entry.hidden);
  const place = listed.indexOf(current);
  const next = listed[place < 0 ? 0 : place + by];
  if (next) show(next);
}

// ------------------------------------------------------------------------------------- one turn

function show(turn, scroll = true, focus = true) {
  current?.entry.removeAttribute("aria-current");
  current?.entry.setAttribute("tabindex", -1);
  current = turn;
  turn.entry.setAttribute("aria-current", "true");
  turn.entry.setAttribute("tabindex", 0);
  turn.entry.scrollIntoView({ block: "nearest" });
  say("");
  drawTurn();
  if (scroll) $("turn").scrollIntoView();
  if (focus) $("reader").focus({ preventScroll: true }); // so that Space and arrows scroll it
  history.replaceState(null, "", link(turn)); // last: Safari refuses it while a key is held down
}

function showLinked() {
  if (labelling) return;
  const asked = turns.find((turn) => link(turn) === location.hash);
  const unknown = !asked && location.hash.length > 1 ? location.hash : "";
  if (asked && asked !== current) show(asked);
  else if (!current && turns.length) show(turns[0], false);
  if (unknown) say(`There is no turn ${unknown} on this page.`);
}

function drawTurn() {
  const turn = current;
  if (!turn || labelling) return;
  if (!turn.texts) return $("turn").replaceChildren("Unpacking …");
  const facts = [
    `reply ${turn.step}`, turn.style, `judges ${points(turn.spread, 0)} points apart`,
    turn.score_confirmed !== null && `with the second look ${points(turn.score_confirmed)}`,
    turn.exported && `export: ${turn.exported}`,
    labels.has(turn) && `your label: ${labels.get(turn)} s`,
    turn.marks.length && `⚑ ${turn.marks.join(", ")}`];
  const file = turn.file.split("/").map(encodeURIComponent).join("/");
  $("turn").replaceChildren(
    el("header", {},
      el("p", { class: "head" }, el("b", { class: "score" }, points(turn.score)),
        el("b", {}, turn.bucket || turn.status), dim(turn.why),
        el("a", { href: link(turn) }, turn.stem), el("a", { href: `../${file}` }, "its file (JSON)")),
      el("p", {}, [turn.instance_id, turn.repo].filter(Boolean).join(" · ")),
      el("p", { class: "dim" }, facts.filter(Boolean).join(" · "))),
    context(turn), chat(turn), pair(turn, [turn.opponent, "challenger"]), panel(turn, 1),
    panel(turn, 2));
  hideMore();
}

function chat(turn) { // every message, drawn once it is opened
  const messages = turn.texts.chat;
  const box = el("details", { class: "chat" },
    el("summary", {}, `The chat so far: ${messages.length} messages`));
  box.addEventListener("toggle", () => messages.forEach(([role, text]) => (
    box.append(el("h2", {}, role), el("pre", {}, text)))), { once: true });
  return box;
}

function hideMore() { // where the box shows all that it has
  for (const more of document.querySelectorAll(".context .more")) {
    const box = more.previousElementSibling;
    more.hidden = box.scrollHeight <= box.clientHeight;
  }
}

function context(turn) {
  const said = turn.texts.chat.filter(([role]) => role === "user").map(([, text]) => text);
  const parts = [["The task", said[0]], ["What the agent had just seen", said.slice(1).at(-1)]];
  const boxes = parts.filter((part) => part[1]).map(([title, text]) => (
    el("section", {}, el("h2", {}, title), el("pre", { tabindex: 0 }, text),
      el("details", { class: "more" }, el("summary", {}, "more")))));
  return el("div", { class: "context pair" }, ...boxes);
}

// The two replies, the sides in this order. A blind reader sees neither names nor findings.
function pair(turn, sides, blind = false) {
  const boxes = sides.map((side, place) => {
    const box = el("section", {}, el("h2", {}, blind ? ["← left", "right →"][place] : side));
    const findings = [];
    if (!blind) {
      for (const { kind, text, why } of turn.texts.leaks[side]) {
        box.append(el("p", { class: "alert" }, `Leak audit, ${kind}: ${text} – ${why}`));
        findings.push(String(text ?? ""));
      }
      const problem = turn.texts.problems[side];
      if (problem) box.append(el("p", { class: "alert" }, `Protocol: ${problem}`));
      findings.push(...[...problem.matchAll(/`([^`\s]+)`/g)].map((match) => match[1]));
    }
    const [text, other] = [side, sides[1 - place]].map((name) => turn.texts.replies[name]);
    box.append(reply(side, text, other, findings.filter(Boolean), turn.texts.fence));
    return box;
  });
  return el("div", { class: "pair" }, ...boxes);
}

// A reply with its commands set off, and what it alone holds. Its text stays, character by
// character, what it was.
function reply(side, text, other, findings, fence) {
  const kinds = kindsOfWords(text, other);
  for (const finding of findings) {
    for (let at = text.indexOf(finding); at >= 0; at = text.indexOf(finding, at + finding.length)) {
      kinds.fill("leak", at, at + finding.length);
    }
  }
  const box = el("div", { class: "reply", "data-reply": side, tabindex: 0 });
  let end = 0;
  const blocks = new RegExp("(```" + fence + "[^\\S\\n]*\\n[^]*?\\n```)");
  text.split(blocks).forEach((piece, place) => {
    const target = place % 2 ? el("span", { class: "command" }) : box;
    if (target !== box) box.append(target);
    for (const stop = end + piece.length; end < stop;) {
      const start = end;
      while (end < stop && kinds[end] === kinds[start]) end += 1;
      const words = text.slice(start, end);
      target.append(kinds[start] ? el("mark", { class: kinds[start] }, words) : words);
    }
  });
  return box;
}

// For each character "word" where the other text has no run of three words with this one in it, else
// "". Of texts that share less than LEAST_SHARED nothing is marked: the marks would cover everything.
const LEAST_SHARED = 0.3;

function kindsOfWords(text, other) {
  const words = text.match(/\s*\S+(?:\s+$)?/g) ?? [];
  const theirs = other.trim().split(/\s+/);
  const runs = new Set(theirs.map((_, at) => theirs.slice(at, at + 3).join(" ")));
  const own = words.map((word) => word.trim());
  const shared = new Set(); // places in words
  own.forEach((_, at) => {
    if (runs.has(own.slice(at, at + 3).join(" "))) [at, at + 1, at + 2].forEach((n) => shared.add(n));
  });
  const alike = shared.size >= LEAST_SHARED * Math.min(words.length, theirs.length);
  return words.flatMap((word, at) => Array(word.length).fill(alike && !shared.has(at) ? "word" : ""));
}

// ------------------------------------------------------------------------------------ the judges

const ORDERS = ["challenger-first", "challenger-second"];
const initial = (turn) => turn.opponent[0].toUpperCase();

function panel(turn, look) {
  const verdicts = turn.texts.verdicts.filter((verdict) => verdict.look === look);
  if (!verdicts.length) return look === 1 ? el("p", { class: "dim" }, "No verdict yet.") : "";
  const rows = [...new Set(verdicts.map((verdict) => verdict.judge))].flatMap((judge) => {
    const its = verdicts.filter((verdict) => verdict.judge === judge);
    const both = ORDERS.map((order) => its.find((verdict) => verdict.order === order));
    const reasons = both.filter((verdict) => verdict?.reason).map((verdict) => (
      el("p", {}, dim(`${verdict.order.replace("-", " ")}: `), verdict.reason)));
    return [
      el("tr", {}, el("th", { scope: "row" }, judge),
        ...metrics.map((metric, place) => callCell(turn, both, metric, place)),
        el("td", {}, look === 1 ? points(turn.texts.by_judge[judge]) : "")),
      el("tr", {}, el("td", { class: "reasons", colspan: metrics.length + 2 }, ...reasons))];
  });
  if (look === 1) {
    const means = metrics.map((metric) => el("td", {}, points(turn.texts.metrics[metric], 0)));
    rows.push(el("tr", {}, el("th", { scope: "row" }, "all"), ...means,
      el("td", {}, points(turn.score))));
  }
  const names = ["", ...metrics, "score"].map((name) => el("th", { scope: "col" }, name));
  return el("section", {}, el("h2", {}, look === 1 ? "The judges" : "The second look"),
    el("p", { class: "dim" }, "Two calls each: with the challenger shown first, then second. "
      + `C: challenger better, ${initial(turn)}: ${turn.opponent} better, =: level.`),
    el("table", {}, el("thead", {}, el("tr", {}, ...names)), el("tbody", {}, ...rows)));
}

function callCell(turn, both, metric, place) {
  const calls = both.map((verdict, order) => { // 1 or 2: the reply that was shown first or second
    const call = verdict?.calls?.[place];
    if (call === undefined) return ["none", "?", "no verdict"];
    if (call === 0) return ["level", "=", "level"];
    if (call === order + 1) return ["win", "C", "challenger better"];
    return ["loss", initial(turn), `${turn.opponent} better`];
  });
  const [first, second] = calls.map((call) => call[0]);
  const flip = first !== second && first !== "none" && second !== "none" ? "flip" : "";
  return el("td", {}, ...calls.map(([kind, letter, words], order) => {
    const title = `${metric}, ${ORDERS[order].replace("-", " ")}: ${words}`;
    const attributes = { class: `call ${kind} ${flip}`, role: "img", "aria-label": title, title };
    return el("span", attributes, letter);
  }));
}

// ------------------------------------------------------------------------------------------ keys

const READING = { j: () => move(1), k: () => move(-1), "/": () => $("filter").focus() };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  let action = (labelling ? { Escape: () => stopLabelling() } : READING)[event.key];
  if (labelling && CHOICES[event.key]) action = () => choose(event.key);
  if (event.key === "?") action = () => $("help").showModal();
  if (event.target === $("filter")) { // Escape would clear it
    action = ["Enter", "Escape"].includes(event.key) ? () => $("reader").focus() : null;
  }
  if (!action) return;
  event.preventDefault();
  action();
}

async function readTexts() {
  const bytes = Uint8Array.from(atob($("texts").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const lines = (await new Response(stream).text()).split("\n"); // a turn each
  turns.forEach((turn, place) => { turn.texts = JSON.parse(lines[place]); });
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
  else filterTurns();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("label").addEventListener("click", startLabelling);
$("turn").addEventListener("click", (event) => {
  if (event.target.matches(".choices button")) choose(event.target.value);
});
$("clear").addEventListener("click", clearFilters);
$("stop").addEventListener("click", () => stopLabelling());
$("save").addEventListener("click", saveLabels);
$("ask").addEventListener("click", () => $("help").showModal());
$("overview").open = window.innerWidth > 960;
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", showLinked);
showLinked();
readTexts();
