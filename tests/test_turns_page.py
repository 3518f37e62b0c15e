"""The page to read and label turns, in the system's own Chromium; skipped without it."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from common.config import METRICS
from common.report.left_out import LeftOut
from common.report.rows import label_sha, read_turn
from common.report.turns_page import pack_texts, visible
from common.turns import ORDERS
from makers import get, make_chat, make_run
from pages import BROWSERS, FLAGS, JUDGES, make_data, write_page
from reports import FINAL, rewrite


def test_what_the_page_is_told_of_a_turn(tmp_path, monkeypatch):
    stems = make_run(tmp_path, [FINAL] * 3)
    answer = get(tmp_path / f"answer_0/{stems[1]}.json")
    rewrite(tmp_path, stems[1], challenger=answer["king"])
    chat = make_chat(7, steps=2)
    rewrite(tmp_path, stems[2], messages=chat)
    monkeypatch.chdir(tmp_path)
    rows = []
    texts = []
    for stem in stems:
        turn = read_turn(stem, Path("answer_0", f"{stem}.json"), LeftOut(200_000))
        pack_texts(turn, 3)
        rows.append(turn.row)
        texts.append(json.loads(turn.row.texts))
    replies = texts[0]["replies"]
    assert rows[0].label_sha == label_sha(replies["king"], replies["challenger"])
    assert rows[1].label_sha == "", "identical replies are not put before a person"
    assert texts[2]["chat"] == [[said["role"], said["content"]] for said in chat]
    assert len(texts[0]["verdicts"]) == 6


# ------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright: pip install playwright"
    )
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """A function that writes a page and opens it; at the end nothing may have gone wrong in it."""
    contexts = []
    troubles = []

    def open_it(data: dict, link: str = "", width: int = 1200, scheme: str = "light"):
        path = tmp_path / "report" / "turns.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(write_page(data), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))

        def watch(request):
            if not request.url.startswith((path.as_uri(), "data:,", "blob:")):
                troubles.append(f"request: {request.url}")

        page.on("request", watch)
        page.goto(path.as_uri() + link)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []


def listed(page) -> list[str]:
    """Return the stems of the list entries that are displayed, in order."""
    script = "all => all.filter(e => e.checkVisibility()).map(e => e.dataset.turn)"
    return page.locator("[data-turn]").evaluate_all(script)


def chosen(page) -> str:
    """Return the stem of the turn that is shown."""
    return page.locator("[aria-current]").get_attribute("data-turn")


def said(page, side: str) -> str:
    """Return the text of a reply that is shown."""
    return page.locator(f"[data-reply={side}]").text_content()


# ----------------------------------------------------------------------------------- reading


def test_shows_both_replies_and_moves_by_keys_and_links(open_page):
    data = make_data(6)
    page = open_page(data, link="#prompts_9_1_3")
    for turn in (data["turns"][2], data["turns"][3]):
        assert chosen(page) == turn["stem"]
        assert page.url.endswith("#" + turn["stem"])
        for side in ("king", "challenger"):
            assert said(page, side) == turn["texts"]["replies"][side]
        page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert chosen(page) == "prompts_9_1_3"
    page.click("[data-turn=prompts_9_1_6]")
    page.locator("[aria-current][data-turn=prompts_9_1_6]").wait_for()
    page.keyboard.press("j")
    assert chosen(page) == "prompts_9_1_6", "there is no turn after the last"
    page.evaluate("location.hash = '#prompts_9_1_2'")
    page.locator("[aria-current][data-turn=prompts_9_1_2]").wait_for()
    assert page.locator("a", has_text="its file").get_attribute("href") == (
        "../answer_0/prompts_9_1_2.json"
    )


def test_link_to_an_unknown_turn_is_told(open_page):
    page = open_page(make_data(2), link="#prompts_9_1_77")
    assert "no turn #prompts_9_1_77" in page.inner_text("#message")
    assert chosen(page) == "prompts_9_1_1"


def test_filters_and_sorts(open_page):
    data = make_data(12)
    data["turns"][4]["marks"] = ["challenger: protocol"]
    data["turns"][5]["marks"] = ["king: leak audit"]
    data["turns"][7]["texts"]["replies"]["challenger"] += " Zebra crossing"
    data["turns"][8] |= {"bucket": None, "score": None, "status": "unfinished"}
    data["turns"][8]["texts"]["verdicts"] = []
    page = open_page(data)
    numbers = {f"prompts_9_1_{n + 1}": n for n in range(12)}

    def shown() -> list[int]:
        return [numbers[stem] for stem in listed(page)]

    assert shown() == list(range(12))
    for name, value, expected in (
        ("bucket", "final", [0, 3, 6, 9]),
        ("bucket", "unfinished", [8]),
        ("spread", "40", [4, 5, 10, 11]),
        ("spread", "-10", [0, 1, 6, 7]),
        ("style", "edit", [2, 6, 10]),
        ("mark", "any", [4, 5]),
        ("mark", "challenger: protocol", [4]),
        ("mark", "king: leak audit", [5]),
        ("export", "train", [0, 3, 6, 9]),
    ):
        page.select_option(f"[name={name}]", value)
        assert shown() == expected, (name, value)
        page.select_option(f"[name={name}]", "")
    page.fill("#filter", "zebra CROSSING")
    assert shown() == [7]
    assert page.inner_text("#count") == "1 of 12 turns"
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    assert chosen(page) == "prompts_9_1_8", "j moves among what is listed"
    page.fill("#filter", "no such words")
    assert shown() == []
    page.fill("#filter", "")
    page.select_option("[name=sort]", "score -1")
    assert shown() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 11, 8]
    page.select_option("[name=sort]", "spread -1")
    assert shown() == [5, 11, 4, 10, 3, 9, 2, 8, 1, 7, 0, 6]
    page.select_option("[name=sort]", "length -1")
    lengths = [data["turns"][number]["length"] for number in shown()]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("fence", ["bash", "mswea_bash_command"])
def test_marks_differences_commands_and_findings(open_page, fence):
    common = "I look at the parser now, since the traceback ends there, in the tokenizer of"
    data = make_data(1)
    data["turns"][0]["texts"] |= {
        "replies": {
            "king": f"{common} the old module.\n\n```{fence}\nls\n```\n\n```{fence}\ngit log\n```",
            "challenger": f"{common} a hidden/file.py.\n\n```{fence}\npython hidden/file.py\n```",
        },
        "fence": fence,
        "leaks": {
            "king": [],
            "challenger": [{"kind": "path", "text": "hidden/file.py", "why": "not seen"}],
        },
        "problems": {"king": "", "challenger": "the command runs `python`, which is forbidden"},
    }
    page = open_page(data)
    assert page.locator("[data-reply=king] .command").count() == 2
    assert page.locator("[data-reply=challenger] .command").count() == 1
    differs = page.locator("[data-reply=king] mark.word").all_text_contents()
    assert "the old module" in " ".join(differs)
    assert not any("parser" in words for words in differs)
    found = page.locator("[data-reply=challenger] mark.leak").all_text_contents()
    assert "".join(found) == "hidden/file.pypythonhidden/file.py"
    alerts = " ".join(page.locator("section p.alert").all_text_contents())
    assert "not seen" in alerts and "which is forbidden" in alerts
    assert said(page, "challenger") == data["turns"][0]["texts"]["replies"]["challenger"]


def test_replies_are_compared_unless_they_are_unlike(open_page):
    page = open_page(make_data(1))

    def marked(text: str, other: str) -> str:
        """Return the characters of a text that are marked beside another."""
        kinds = page.evaluate("([text, other]) => kindsOfWords(text, other)", [text, other])
        assert len(kinds) == len(text)
        return "".join(letter for letter, kind in zip(text, kinds) if kind)

    lines = [f"line {number} of a long reply\n" for number in range(900)]
    king = "".join(lines)
    challenger = "".join([*lines[:100], "something quite new\n", *lines[100:]])
    assert marked(king, challenger) == ""
    assert marked(challenger, king).strip() == "something quite new"
    assert marked(king, "x") == marked("x", king) == ""
    assert marked("the one", "a the other") == ""


def test_verdicts_of_both_looks(open_page):
    data = make_data(1)
    turn = data["turns"][0]
    calls = [1] * len(METRICS)
    names = ("judge", "order", "calls", "reason", "look")
    turn["texts"]["verdicts"] = [
        dict(zip(names, (JUDGES[0], ORDERS[0], calls, "first reason", 1))),
        dict(zip(names, (JUDGES[0], ORDERS[1], calls, "second reason", 1))),
        dict(zip(names, (JUDGES[1], ORDERS[0], None, "", 1))),
        dict(zip(names, ("lab/Other", ORDERS[0], calls, "third", 2))),
    ]
    turn["score_confirmed"] = 88.8
    page = open_page(data)
    tables = page.locator("table")
    assert tables.count() == 2
    first = tables.nth(0).locator("tbody tr").first
    assert first.locator(".call").all_text_contents() == ["C", "K"] * len(METRICS)
    assert first.locator(".call.flip").count() == 2 * len(METRICS), (
        "the same call for both places is marked"
    )
    title = first.locator(".call").nth(1).get_attribute("title")
    assert title == "correctness, challenger second: king better"
    assert tables.nth(0).locator(".call.none").count() == 2 * len(METRICS)
    assert "second reason" in tables.nth(0).inner_text()
    assert "lab/Other" in tables.nth(1).inner_text()
    assert "88.8" in page.inner_text("#turn header")


def test_mode_1_names_the_reference(open_page):
    data = make_data(1, opponent="reference")
    data["turns"][0]["texts"] |= {
        "replies": {"reference": "the old one", "challenger": "the new one"},
        "leaks": {"reference": [], "challenger": []},
        "problems": {"reference": "", "challenger": ""},
    }
    page = open_page(data)
    assert said(page, "reference") == "the old one"
    assert page.locator("[data-reply=king]").count() == 0
    assert "R: reference better" in page.inner_text("#turn")


def test_help(open_page):
    page = open_page(make_data(2))
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("j")
    assert chosen(page) == "prompts_9_1_1", "keys rest while the help is open"
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_a_long_observation_opens_with_more(open_page):
    data = make_data(1, observation="\n".join(f"line {number}" for number in range(60)))
    page = open_page(data)
    box = page.locator(".context pre").nth(1)
    before = box.bounding_box()["height"]
    page.locator(".context .more").nth(1).click()
    assert box.bounding_box()["height"] > 2 * before


def test_a_turn_that_is_filtered_out_leaves_and_one_button_clears_all_filters(open_page):
    page = open_page(make_data(12))
    assert not page.locator("#clear").is_visible()
    page.select_option("[name=bucket]", "refined")
    assert chosen(page) == "prompts_9_1_2" and "72" not in page.inner_text("#turn .score")
    page.fill("#filter", "no such words")
    assert page.inner_text("#turn") == "No turn passes these filters."
    assert page.evaluate("document.activeElement.id") == "filter", "typing goes on"
    page.click("#clear")
    assert len(listed(page)) == 12 and not page.locator("#clear").is_visible()
    assert page.input_value("#filter") == page.input_value("[name=bucket]") == ""
    assert chosen(page) == "prompts_9_1_1"


def test_the_whole_chat_can_be_read(open_page):
    data = make_data(1, chat=[["system", "Rules <b>"], ["user", "Do it"], ["assistant", "done"]])
    page = open_page(data)
    page.click(".chat summary")
    assert page.locator(".chat h2").all_text_contents() == ["system", "user", "assistant"]
    assert page.locator(".chat pre").all_text_contents() == ["Rules <b>", "Do it", "done"]


def test_more_only_where_there_is_more_and_bars_say_their_counts(open_page):
    page = open_page(make_data(1, task="short"))
    assert not page.locator(".context .more").nth(0).is_visible()
    assert page.locator(".context .more").nth(1).is_visible()
    drawn = page.locator("#overview svg").nth(1).locator("text").all_text_contents()
    assert all("loss" in " ".join(drawn) for _ in drawn) and "turns" in page.inner_text(
        "figcaption"
    )


def test_scores_stay_on_one_line_on_a_phone(open_page):
    page = open_page(make_data(3), width=400)
    cell = page.locator("#turn tbody tr").first.locator("td").last
    one_line = page.evaluate("parseFloat(getComputedStyle(document.body).lineHeight)")
    assert (
        cell.evaluate("""cell => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return range.getBoundingClientRect().height;
    }""")
        <= one_line
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


# --------------------------------------------------------------------------------- labelling


def test_labels_blind_and_saves_them(open_page):
    data = make_data(30)
    for turn in data["turns"]:
        turn["texts"]["by_judge"] = {judge: 12.3 for judge in JUDGES}
    page = open_page(data)
    page.click("#label")
    by_replies = {}
    for turn in data["turns"]:
        by_replies[tuple(turn["texts"]["replies"].values())] = turn
    expected = {}
    lefts = []
    for key, choice in [("ArrowLeft", 0), ("ArrowRight", 1), ("=", "level"), ("s", "skip")] * 5:
        seen = page.inner_text("body").lower()
        for word in ("king", "challenger", "judge", "12.3", "final", "refined", "defeat", "acme"):
            assert word not in seen, f"a blind reader is shown {word!r}"
        assert listed(page) == []
        sides = page.locator("[data-reply]").evaluate_all("all => all.map(e => e.dataset.reply)")
        lefts.append(sides[0])
        turn = by_replies[said(page, "king"), said(page, "challenger")]
        expected[turn["stem"]] = sides[choice] if choice in (0, 1) else choice
        page.keyboard.press(key)
    assert set(lefts) == {"king", "challenger"}, "the sides are shuffled"
    assert len(expected) == 20
    assert "Turn 21 of 30" in page.inner_text("#turn")

    page.keyboard.press("u")
    expected.popitem()
    assert "Turn 20 of 30" in page.inner_text("#turn")
    page.reload()  # the labels outlive the page
    assert page.inner_text("#label") == "Label 11 more"
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "labels.csv"
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert {row["stem"]: row["preferred"] for row in rows} == expected
    turns = {turn["stem"]: turn for turn in data["turns"]}
    for row in rows:
        assert row["sha"] == turns[row["stem"]]["sha"]
        assert float(row["seconds"]) >= 0

    page.click("#label")
    for _ in range(11):
        page.click(".choices [value='=']")
    assert "All 30 are labelled" in page.inner_text("#message")
    assert page.locator("#label").is_disabled()
    assert len(listed(page)) == 30


def test_draws_two_thirds_from_final(open_page):
    data = make_data(300)
    data["turns"][0]["sha"] = ""  # as `turn_data` has it for identical replies
    page = open_page(data)
    assert page.inner_text("#label") == "Label 60"
    drawn = page.evaluate("draw(60).map(turn => turn.bucket)")
    assert drawn.count("final") == 40 and len(drawn) == 60
    assert 10 < drawn[:30].count("final") < 30, "the order does not tell the bucket"
    assert page.evaluate("draw(1000).length") == 299, "what has no sha is not asked for"
    smaller = set(page.evaluate("draw(60).map(turn => turn.stem)"))
    assert smaller < set(page.evaluate("draw(120).map(turn => turn.stem)"))


def test_changed_replies_lose_their_label(open_page):
    data = make_data(3)
    page = open_page(data)
    page.click("#label")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert page.inner_text("#save") == "Save labels.csv (1)"
    for turn in data["turns"]:
        turn["sha"] = turn["sha"][::-1]
    path = Path(page.url.removeprefix("file://").split("#")[0])
    path.write_text(write_page(data), encoding="utf-8")
    page.reload()
    assert not page.locator("#save").is_visible()


# ----------------------------------------------------------------------------------- hostile

EVIL = "window.pwned = 1; alert(1)"
HOSTILE = [
    f"</script><script>{EVIL}</script>",
    f"<img src=http://127.0.0.1:9/x.png onerror='{EVIL}'>",
    f"<svg onload='{EVIL}'><style>* {{ display: none }}</style>",
    f"--></title></style></textarea></noscript><iframe srcdoc='<script>{EVIL}</script>'>",
    f'" onmouseover="{EVIL}" autofocus onfocus="{EVIL}" x="',
    f"javascript:{EVIL}",
    "<!-- facts --><!-- texts --><!-- policy --><!--<script>",
    "<base href='http://127.0.0.1:9/'><link rel=stylesheet href='http://127.0.0.1:9/a.css'>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "]]>\\u003c/script\\u003e&lt;script&gt;&#60;b&#62;",
    "${" + EVIL + "} {{constructor.constructor('" + EVIL + "')()}}",
    "__proto__",
    "constructor",
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u200bzero\u200dwidth\ufeff \u00ad",
    "\x1b[31mred\x1b]8;;http://127.0.0.1:9\x07 \x00\x08\r\x7f\x9b",
    "line\u2028separator\u2029paragraph \ud800 lone",
    "W" * 3000,
    "e" + "\u0301\u0327\u0489" * 200,
    "مرحبا بالعالم عربي עברית",
    "```bash\n```bash\n" * 200 + "\n\n\n```",
    "'=cmd|' /C calc'!A0\n,,,\"\"",
    "`" * 500 + "(" * 500 + "\\" * 500,
]


def hostile_data() -> dict:
    """Return a page's data in which hostile texts stand wherever a text can stand."""
    data = make_data(len(HOSTILE))
    data["title"] = " ".join(HOSTILE[:6])
    data["facts"] = HOSTILE[:12]
    data["judges"] = HOSTILE[:3]
    for turn, text in zip(data["turns"], HOSTILE, strict=True):
        texts = turn["texts"]
        for key in ("instance_id", "repo", "why", "style", "exported"):
            turn[key] = text
        turn["file"] = f"answer_0/{text}"
        turn["status"] = text
        turn["marks"] = [text]
        texts["chat"] = [["user", text], ["user", text]]
        texts["replies"] = {"king": text, "challenger": f"{text}\n\n```bash\n{text}\n```"}
        texts["problems"] = {"king": f"`{text}`", "challenger": text}
        for side in ("king", "challenger"):
            texts["leaks"][side] = [{"kind": text, "text": text, "why": text}]
        texts["by_judge"] = {text: 50.0}
        for verdict in texts["verdicts"]:
            verdict["judge"] = text
            verdict["reason"] = text
    return data


@pytest.mark.parametrize("width", [400, 1200])
def test_hostile_texts_run_nothing_and_break_nothing(open_page, width):
    data = hostile_data()
    page = open_page(data, width=width)
    assert len(listed(page)) == len(HOSTILE)
    for turn in data["turns"]:
        assert chosen(page) == turn["stem"]
        for side in ("king", "challenger"):
            assert said(page, side) == visible(turn["texts"]["replies"][side])
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{turn['why'][:40]!r} makes the page {wide} wide"
        for part in page.locator("#turn header, #turn section p, .reply, pre").all():
            cut = part.evaluate("part => part.scrollWidth - part.clientWidth")
            assert cut <= 0, f"{turn['why'][:40]!r} does not wrap"
        page.keyboard.press("j")
    page.fill("#filter", "pwned")
    assert 0 < len(listed(page)) < len(HOSTILE)
    page.fill("#filter", "")
    page.click("#label")
    for _ in HOSTILE:
        page.keyboard.press("s")
    assert page.evaluate("window.pwned") is None
    assert page.locator("iframe, img, base, object, embed").count() == 0
    assert page.locator("script").count() == 3 and page.locator("style").count() == 1


def test_policy_stops_what_would_slip_through(browser, tmp_path):
    page_text = write_page(make_data(1))
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
    evil = f"<script>{EVIL}</script><script src={address}></script>"
    evil += f"<img src={address} onerror='{EVIL}'>"
    path = tmp_path / "turns.html"
    path.write_text(page_text.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    assert chosen(page) == "prompts_9_1_1"
    assert page.evaluate("window.pwned") is None
    context.close()
    with pytest.raises(BlockingIOError):
        server.accept()


def texts_of(page: str) -> list[dict]:
    """Return the texts that a page holds, a turn each."""
    packed = re.search(r'gzip" id="texts">([^<]*)<', page)[1]
    lines = gzip.decompress(base64.b64decode(packed)).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_no_tag_and_no_mark_that_is_obeyed_stands_in_the_file():
    page = write_page(hostile_data())
    page.encode("utf-8")  # no lone surrogate
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page)[1]
    assert not re.search("[<>&\u2028\u2029]", facts)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page
    )
    assert "⟨U+202E⟩gnp.exe" in json.loads(facts)["turns"][13]["why"]
    assert "⟨U+001B⟩[31mred" in texts_of(page)[14]["chat"][0][1]
    assert visible("one\r\ntwo\rthree") == "one\r\ntwo⟨U+000D⟩three"


# ------------------------------------------------------------------------------- many, people


def test_two_thousand_turns(open_page):
    data = make_data(2000)
    data["turns"][1500]["texts"]["replies"]["challenger"] += " zebra"
    page = open_page(data, link="#prompts_9_1_1777")
    assert Path(page.url.removeprefix("file://").split("#")[0]).stat().st_size <= 6_000_000
    assert page.locator("[data-turn]").count() == 2000
    assert chosen(page) == "prompts_9_1_1777"
    page.locator("[data-reply=king]").wait_for()
    assert said(page, "king") == data["turns"][1776]["texts"]["replies"]["king"]
    page.fill("#filter", "zebra")
    assert listed(page) == ["prompts_9_1_1501"]


def test_the_same_data_gives_the_same_page_and_long_texts_say_what_is_left_out():
    assert write_page(make_data(250)) == write_page(make_data(250))
    data = make_data(1, observation="x" * 50_000)
    data["turns"][0]["texts"]["replies"]["king"] = "y" * 30_000
    (texts,) = texts_of(write_page(data))
    assert "30,000 characters left out" in texts["chat"][-1][1]
    assert "10,000 characters left out" in texts["replies"]["king"]


@pytest.mark.parametrize("all_chars, shown, other", [(16_000, 4000, 2000), (400, 500, 150)])
def test_the_more_turns_share_a_page_the_less_it_shows_of_each(
    monkeypatch, all_chars, shown, other
):
    monkeypatch.setattr("common.report.turns_page.ALL_CHAT_CHARS", all_chars)
    data = make_data(1, task="t" * 9000, observation="o" * 9000)
    data["turns"][0]["texts"]["chat"][2][1] = "a" * 9000
    (texts,) = texts_of(write_page(data))
    kept = [sum(map(text.count, "toa")) for _, text in texts["chat"][1:]]
    assert all(abs(chars - wanted) < 30 for chars, wanted in zip(kept, (shown, other, shown)))


CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const box = node.closest("svg rect, svg");
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.disabled) continue;
    const ink = light(parse(box ? getComputedStyle(node).fill : getComputedStyle(node).color));
    const behind = light(ground(node));
    const ratio = (Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05);
    if (ratio < 4.5) poor.push(`${walker.currentNode.data.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_both_schemes(open_page, scheme):
    data = make_data(6)
    data["turns"][0]["texts"]["leaks"]["king"] = [{"kind": "x", "text": "src/0", "why": "why"}]
    page = open_page(data, scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("?")
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("Escape")
    page.click("#label")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [400, 1200, 2000])
def test_no_view_is_wider_than_the_screen(open_page, width):
    page = open_page(make_data(6), width=width)
    for key in ("j", "?", "Escape"):
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#label")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


NAME_OF_FOCUS = """() => {
  const focused = document.activeElement;
  const data = focused.dataset;
  return focused.id || focused.name || data.turn || data.reply || focused.tagName;
}"""


def test_every_control_is_reached_by_keyboard(open_page):
    page = open_page(make_data(3))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    names = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(page.evaluate(NAME_OF_FOCUS))
    wanted = {"bucket", "spread", "style", "mark", "export", "sort", "prompts_9_1_1", "king",
              "challenger", "label", "ask", "SUMMARY"}  # fmt: skip
    assert wanted <= names
