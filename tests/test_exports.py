"""export/ as its user finds it: what is in it, how it loads, what the card says of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.files import clean_text
from common.turns import hidden_record
from makers import JUDGES, MOST, get, make_reply, make_run, put, write_settings
from reports import (
    DEFEAT,
    FINAL,
    REFINED,
    edit,
    exported,
    json_lines,
    read,
    read_csv,
    redo_duel,
    rejudge,
    report,
    rewrite,
    where,
)
from runner import start

pytestmark = pytest.mark.background

CARD = "export/README.md"


def card(folder: Path) -> str:
    """Return the card with each paragraph on one line."""
    return " ".join(read(folder / CARD).split())


def front_matter(folder: Path) -> dict:
    """Return the card's front matter as the Hub reads it."""
    import yaml

    return yaml.safe_load(read(folder / CARD).split("---\n")[1])


# ------------------------------------------------------------------------------------------ format

# What a reader has of every configuration and split, as `datasets` loads them by the card, with
# nothing of the user's settings.
LOAD = """
import datasets, json, pathlib
found = {}
for name in sorted({path.name.split("-")[0] for path in pathlib.Path("export").glob("*.jsonl")}):
    found[name] = {}
    for split, part in datasets.load_dataset("./export", name).items():
        alone = datasets.load_dataset("json", data_files=f"export/{name}-{split}.jsonl")["train"]
        assert part.to_list() == alone.to_list()
        features = {key: str(value) for key, value in part.features.items()}
        found[name][split] = [part.num_rows, features]
assert "completion" in datasets.load_dataset("./export")["train"].features
print(json.dumps(found))
"""


def load_all(folder: Path) -> dict:
    """Return the number of rows and the features of each configuration and split."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


ABOUT = [
    "instance_id", "repo", "license", "stem", "score", "prompt_chars", "prompt_tokens",
    "candidates_distinct", "meta",
]  # fmt: skip
TEXTS = {
    "sft": ["prompt", "completion"],
    "dpo": ["prompt", "chosen", "rejected", "chosen_message", "rejected_message", "margin"],
    "chat": ["messages"],
    "tools": ["prompt", "completion", "tools"],
    "distill": ["prompt", "privileged_context"],
}
MESSAGE = {"role", "content"}
CALLS = {"tool_call_id", "id", "type", "name", "command"}
KEYS = {"chat": MESSAGE | {"weight"}, "tools": MESSAGE | CALLS}


def test_exports_load_and_keep_to_the_formats(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 60, instances=60)
    surrogate = "THOUGHT: odd \ud83d text | é 漢\n\n```bash\nls\n```"
    rewrite(tmp_path, stems[3], challenger=surrogate)
    messages = get(tmp_path / f"answer_0/{stems[3]}.json")["messages"]
    for message in messages:
        message["extra"] = 1  # other fields of the source data stay out
    rewrite(tmp_path, stems[4], messages=messages)
    report(tmp_path, "--distill")
    loaded = load_all(tmp_path)
    assert set(loaded) == set(TEXTS)
    for config, texts in TEXTS.items():
        assert set(loaded[config]) == {"train", "validation"}
        assert sum(rows for rows, _ in loaded[config].values()) == 60
        for _, features in loaded[config].values():
            assert list(features) == [*texts, *ABOUT]
            assert "float64" in features["score"] and "string" in features["meta"]
            keys = KEYS.get(config, MESSAGE)
            assert set(re.findall(r"'(\w+)': Value", features[texts[0]])) == keys
    assert "float64" in loaded["dpo"]["train"][1]["margin"]
    by_config = [exported(tmp_path, config) for config in TEXTS]
    for sft, dpo, chat, tools, distill in zip(*by_config, strict=True):
        answer = get(tmp_path / f"answer_0/{sft['stem']}.json")
        chosen = {"role": "assistant", "content": clean_text(answer["challenger"])}
        rejected = {"role": "assistant", "content": answer["king"]}
        assert sft["completion"] == [chosen] == dpo["chosen"]
        assert dpo["rejected"] == [rejected]
        assert [dpo["chosen_message"], dpo["rejected_message"]] == [chosen, rejected]
        assert sft["score"] == 90.0 and json.loads(sft["meta"])["judged_against"] == "king"
        assert sft["prompt"] == dpo["prompt"]
        for said, message in zip(sft["prompt"], answer["messages"], strict=True):
            assert said == {"role": message["role"], "content": message["content"]}
        weights = [said.pop("weight") for said in chat["messages"]]
        assert weights == [0] * len(sft["prompt"]) + [1]
        assert chat["messages"] == [*sft["prompt"], chosen]
        for other in (dpo, chat, tools, distill):
            assert [sft[key] for key in ABOUT] == [other[key] for key in ABOUT]
        assert dpo["margin"] == 0.8 and distill["prompt"] == sft["prompt"]
        assert len(tools["prompt"]) == len(sft["prompt"])


def test_each_configuration_holds_the_same_turns_in_the_same_split(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 60, instances=60)
    set_usage(tmp_path, stems[7], 9000)
    rewrite(tmp_path, stems[8], challenger="THOUGHT: no command.")
    report(tmp_path, "--distill", "--max-tokens", "8000")
    for split, others in (("train", 50), ("validation", 1)):
        held = [
            [row["stem"] for row in json_lines(tmp_path / f"export/{config}-{split}.jsonl")]
            for config in TEXTS
        ]
        assert held == [held[0]] * len(TEXTS) and len(held[0]) >= others
        assert not {stems[7], stems[8]} & set(held[0])


def test_history_and_reply_become_calls_of_the_tool(tmp_path):
    def block(command: str) -> str:
        return f"```bash\n{command}\n```"

    (stem,) = make_run(tmp_path, [FINAL])
    chat = [
        ("system", "One block, please."),
        ("user", "issue"),
        ("assistant", f"THOUGHT: a\n\n{block('ls  -l')}\n\nafter"),
        ("user", "Observation: out"),
        ("assistant", "THOUGHT: none"),  # the agent refused it: no call
        ("user", "exactly one block!"),
        ("assistant", f"{block('ls')}\n{block('pwd')}"),  # so it did these two
        ("user", "exactly one block!"),
        ("assistant", block("ls")),  # with no output: no call that was answered
        ("assistant", block("cat <<'E'\n\"é\"\nE")),
        ("user", "<output>é</output>"),
    ]
    messages = [{"role": role, "content": text} for role, text in chat]
    rewrite(tmp_path, stem, messages=messages, challenger=f"THOUGHT: end\n\n{block('git diff')}")
    report(tmp_path)
    (row,) = exported(tmp_path, "tools")
    wanted = list(chat)
    wanted[2] = ("assistant", "THOUGHT: a\n\nafter")
    wanted[3] = ("tool", "Observation: out")
    wanted[9] = ("assistant", "")
    wanted[10] = ("tool", "<output>é</output>")
    assert [(said["role"], said["content"]) for said in row["prompt"]] == wanted
    calls = {}
    answered = {}
    for number, said in enumerate(row["prompt"] + row["completion"]):
        assert set(said) == {"role", "content", "tool_calls", "tool_call_id"}
        for call in said["tool_calls"]:
            assert call["type"] == "function" and re.fullmatch("[a-z0-9]{9}", call["id"])
            assert call["function"].pop("name") == "bash"
            calls[number] = call["function"]["arguments"]
            answered[call["id"]] = number + 1
        if said["tool_call_id"]:
            assert answered[said["tool_call_id"]] == number and said["role"] == "tool"
    texts = {2: "ls  -l", 9: "cat <<'E'\n\"é\"\nE", 11: "git diff"}
    assert calls == {number: {"command": text} for number, text in texts.items()}
    assert row["completion"][0]["content"] == "THOUGHT: end"
    (tool,) = row["tools"]
    parameters = tool["function"]["parameters"]
    assert tool["function"]["name"] == "bash" and parameters["required"] == ["command"]
    assert parameters["properties"]["command"]["type"] == "string"


def test_distill_holds_the_record_that_the_challenger_reads_and_only_when_asked_for(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6, instances=6)
    instances = [get(tmp_path / f"answer_0/{stem}.json")["instance_id"] for stem in stems]
    edit(tmp_path / f"commit/{instances[0]}.json", patch=f"+{'x' * 1500}", interface="def f()")
    (tmp_path / f"commit/{instances[1]}.json").write_text("{")
    write_settings(tmp_path, generate={"max_patch_chars": 1000})
    told = report(tmp_path, "--distill").stdout
    assert "1 turn without a PR record that can be read: not in distill" in told
    rows = {row["stem"]: row for row in exported(tmp_path, "distill")}
    assert list(rows) == [stem for stem in stems if stem != stems[1]]
    for stem, instance in zip(stems, instances):
        if stem in rows:
            record = get(tmp_path / f"commit/{instance}.json")
            assert rows[stem]["privileged_context"] == hidden_record(record, 1000)
    assert "1,000 of 1,501 characters are shown" in rows[stems[0]]["privileged_context"]
    text = card(tmp_path)
    for said in ("SDFTTrainer(", "publishes the solutions", "2603.24472", "2607.02502",
                 "2607.05184", "up to 17 %", "Measure before you trust it"):  # fmt: skip
        assert said in text
    assert len(front_matter(tmp_path)["configs"]) == 5
    assert "distill" not in report(tmp_path).stdout
    assert not list((tmp_path / "export").glob("distill*"))
    assert not re.search("SDFT|privileged|distill[^a]", card(tmp_path))
    for instance in instances:
        (tmp_path / f"commit/{instance}.json").unlink()
    report(tmp_path, "--distill")
    assert not re.search("SDFT|privileged", card(tmp_path)), "of no row there is no configuration"


def test_the_margin_is_of_the_score_that_decided(tmp_path):
    stems = make_run(tmp_path, [FINAL, REFINED, FINAL])
    up = {"points_confirmed": 85, "max_points_confirmed": 100, "score_confirmed": 85.0}
    edit(tmp_path / f"score/{stems[2]}.json", **up)
    report(tmp_path, "--with-refined")
    assert [row["margin"] for row in exported(tmp_path, "dpo")] == [0.8, 0.4, 0.7]


def test_against_the_reference_the_rejected_reply_is_the_reference(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 3)
    for stem in stems:
        edit(tmp_path / f"score/{stem}.json", mode=1)
    edit(tmp_path / "score/_duel.json", mode=1)
    report(tmp_path)
    for row in exported(tmp_path, "dpo"):
        answer = get(tmp_path / f"answer_0/{row['stem']}.json")
        assert row["rejected"][0]["content"] == answer["assistant"]
        assert json.loads(row["meta"])["judged_against"] == "reference"
    assert "against reference" in read(tmp_path / "report/report.md")
    another_king = make_reply(random.Random(99))  # no judge read it
    edit(tmp_path / f"answer_0/{stems[0]}.json", king=another_king)
    report(tmp_path)
    assert len(where(tmp_path)) == 3


# ------------------------------------------------------------------------------------------ splits


def hash_of(repo: str) -> float:
    return int(hashlib.sha256(repo.encode()).hexdigest()[:16], 16) / 2**64


def splits(folder: Path) -> dict[str, str]:
    """Return the split of each repo; no repo may be in two."""
    found: dict[str, str] = {}
    for split in ("train", "validation"):
        for row in json_lines(folder / f"export/sft-{split}.jsonl"):
            assert found.setdefault(row["repo"], split) == split
    return found


def test_the_split_is_by_repo_and_survives_growth(tmp_path):
    def split_of_run(turns: int) -> dict[str, str]:
        folder = tmp_path / str(turns)
        make_run(folder, [FINAL] * turns, instances=400, chars=100)
        report(folder)
        return splits(folder)

    small = split_of_run(80)
    large = split_of_run(200)
    assert small.items() <= large.items() and len(large) > len(small)
    for repo, split in large.items():
        assert split == ("validation" if hash_of(repo) < 0.1 else "train")
    assert 0.02 < sum(split == "validation" for split in large.values()) / len(large) < 0.25


# By their hashes all of these would be in the one split, or in the other.
REPOS = [f"owner-{number}/project" for number in range(60)]
TO_TRAIN = [repo for repo in REPOS if hash_of(repo) >= 0.1][:6]
TO_VALIDATION = [repo for repo in REPOS if hash_of(repo) < 0.1][:2]


@pytest.mark.parametrize("repos", [TO_TRAIN, TO_VALIDATION, TO_VALIDATION[:1]])
def test_where_a_hash_would_leave_a_split_empty_all_is_train(tmp_path, repos):
    stems = make_run(tmp_path, [FINAL] * 12, instances=12)
    for number, stem in enumerate(stems):
        answer = get(tmp_path / f"answer_0/{stem}.json")
        meta = {**answer["meta"], "repo": repos[number % len(repos)]}
        edit(tmp_path / f"answer_0/{stem}.json", meta=meta)
    told = report(tmp_path).stdout
    assert splits(tmp_path) == dict.fromkeys(repos, "train")
    for text in (told, card(tmp_path), read(tmp_path / "report/report.md")):
        assert "There is no validation split" in text


def test_one_repo_in_validation_is_a_small_split(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 12, instances=12)
    for number, stem in enumerate(stems):
        answer = get(tmp_path / f"answer_0/{stem}.json")
        repo = [*TO_TRAIN, TO_VALIDATION[0]][number % 7]
        edit(tmp_path / f"answer_0/{stem}.json", meta={**answer["meta"], "repo": repo})
    told = report(tmp_path).stdout
    held_out = {repo for repo, split in splits(tmp_path).items() if split == "validation"}
    assert held_out == {TO_VALIDATION[0]} and "The validation split is small" in told


def test_a_kill_leaves_nothing_half_written_beside_the_training_files(tmp_path):
    make_run(tmp_path, [FINAL] * 150, instances=150)
    process = start("report.py", cwd=tmp_path)
    while process.poll() is None and not list(tmp_path.glob("report/.sft-train*.tmp")):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert list(tmp_path.glob("report/.sft-train*.tmp")), "it was not killed midway"
    assert not [path for path in (tmp_path / "export").iterdir() if path.name.endswith(".tmp")]
    report(tmp_path)
    assert not list(tmp_path.glob("report/.*.tmp")) and len(exported(tmp_path)) == 150


# ----------------------------------------------------------------------------- lengths and licences


def set_usage(folder: Path, stem: str, tokens: int | None) -> None:
    """Let the provider have told this many tokens of the king's prompt; None: nothing."""
    answer = get(folder / f"answer_0/{stem}.json")
    answer["meta"]["king"]["usage"] = {"prompt_tokens": tokens} if tokens else {}
    answer["meta"]["challenger"]["usage"] = {"prompt_tokens": 99_999}  # holds the record too
    put(folder / f"answer_0/{stem}.json", answer)


@pytest.fixture
def lengths_run(tmp_path):
    """Ten turns of 1,000 to 10,000 tokens, and one of which the provider told nothing."""
    stems = make_run(tmp_path, [FINAL] * 11, instances=11)
    for number, stem in enumerate(stems):
        set_usage(tmp_path, stem, 1000 * (number + 1) if number < 10 else None)
    return tmp_path


def test_lengths_stand_in_rows_table_tally_report_and_card(lengths_run):
    told = report(lengths_run).stdout
    cells = {row["stem"]: row for row in read_csv(lengths_run)}
    for row in exported(lengths_run):
        chars = sum(len(message["content"]) for message in row["prompt"])
        number = int(row["stem"].split("_")[-1])
        guessed = number == 11
        assert row["prompt_chars"] == chars
        assert row["prompt_tokens"] == (round(chars / 3.6) if guessed else 1000 * number)
        assert json.loads(row["meta"])["tokens_from"] == ("guess" if guessed else "usage")
        cell = cells[row["stem"]]
        assert cell["prompt_chars"] == str(row["prompt_chars"])
        assert cell["prompt_tokens"] == str(row["prompt_tokens"])
    tokens = sorted(row["prompt_tokens"] for row in exported(lengths_run))
    assert tokens[-1] == 10_000 and len(tokens) == 11
    lost = {length: sum(n >= length for n in tokens) for length in (1024, 4096, 8192, 16_384)}
    assert lost[16_384] == 0 and lost[8192] == 2
    for text in (told, read(lengths_run / "report/report.md")):
        assert f"of {tokens[5]:,} tokens in the middle" in text and "10,000 at most" in text
        assert "1 of 11 guessed" in text
        for length, rows in lost.items():
            assert f"{length:,}: {rows}" in text
    text = card(lengths_run)
    assert "1 of 11 guessed at 3.6 characters a token" in text
    for length, rows in lost.items():
        assert f"| {length:,} | {rows} |" in text
    given = re.findall(r"(?:max_length=|cutoff_len: |sequence_len: )(\d+)\b", text)
    assert len(given) == 6 and len(set(given)) == 1 and 10_000 < int(given[0]) < 16_384


def test_max_tokens_leaves_longer_rows_out_and_counts_them(lengths_run):
    told = report(lengths_run, "--max-tokens", "5000").stdout
    tokens = [row["prompt_tokens"] for row in exported(lengths_run)]
    assert len(tokens) == 5 and max(tokens) < 5000  # 5,000 and the reply are more than 5,000
    for text in (told, read(lengths_run / "report/report.md"), card(lengths_run)):
        assert "6 rows of more than 5,000 tokens left out" in text
    fates = [row["export"] for row in read_csv(lengths_run)]
    assert fates.count("not exported: longer than 5000 tokens") == 6
    report(lengths_run)
    assert len(exported(lengths_run)) == 11
    report(lengths_run, "--max-tokens", "0", code=2)


def test_licences_are_in_rows_table_and_card(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6, instances=6)
    for stem, licence in zip(stems, ["mit", "mit", "Apache-2.0", "| a\n[x](y)", None]):
        instance = get(tmp_path / f"answer_0/{stem}.json")["instance_id"]
        edit(tmp_path / f"commit/{instance}.json", license=licence)
    report(tmp_path)
    given = {row["stem"]: row["license"] for row in exported(tmp_path, "chat")}
    assert [given[stem] for stem in stems] == ["mit", "mit", "Apache-2.0", "| a\n[x](y)", "", ""]
    assert [row["license"] for row in read_csv(tmp_path)] == list(given.values())
    text = read(tmp_path / CARD)
    for line in ("| mit | 2 |", "| Apache-2.0 | 1 |", "| not known | 2 |"):
        assert line in text
    assert "of 2 of 6 rows it is not known" in text and "[x](y)" not in text


# ------------------------------------------------------------------------------ which turns are in


def test_near_duplicates_within_an_instance_are_dropped(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 8, instances=8)
    words = " ".join(f"word{number}" for number in range(60))
    said = f"THOUGHT: {words}\n\n```bash\ncat src/parser.py\n```"
    instance = get(tmp_path / f"answer_0/{stems[0]}.json")["instance_id"]
    for stem, text in [
        (stems[0], said),
        (stems[1], said.replace("word30", "Another")),  # near
        (stems[2], said.upper().replace("```BASH", "```bash")),  # the same but for case
        (stems[4], said.replace("word", "other")),  # another text
    ]:
        rewrite(tmp_path, stem, challenger=text, instance_id=instance)
    rewrite(tmp_path, stems[3], challenger=said)  # the same, of another instance
    rejudge(tmp_path, stems[1], MOST)
    report(tmp_path)
    kept = {row["stem"] for row in exported(tmp_path)}
    assert kept == {stems[1], *stems[3:]}  # of the three near ones the best-scored
    assert len(where(tmp_path)) == 8
    assert "2 near-duplicates dropped" in read(tmp_path / "report/report.md")
    assert "2 near-duplicates dropped" in card(tmp_path)
    fates = [row["export"] for row in read_csv(tmp_path)]
    assert fates.count("not exported: near-duplicate") == 2


def test_what_the_second_look_takes_down_is_not_exported(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 4 + [REFINED])
    look = {"points_confirmed": 70, "max_points_confirmed": 100, "score_confirmed": 70.0}
    edit(tmp_path / f"score/{stems[0]}.json", **look)
    reader = "the reader's test: the chat does not explain 'zebra'"
    edit(tmp_path / f"score/{stems[1]}.json", held_back=reader)
    answer = get(tmp_path / f"answer_0/{stems[2]}.json")
    answer["meta"]["challenger"]["refused"] = "leak (path)"
    put(tmp_path / f"answer_0/{stems[2]}.json", answer)
    up = {"points_confirmed": 90, "max_points_confirmed": 100, "score_confirmed": 90.0}
    edit(tmp_path / f"score/{stems[4]}.json", **up)
    report(tmp_path)
    buckets = ["refined", "refined", "refined", "final", "final"]
    assert [where(tmp_path)[stem] for stem in stems] == [[bucket] for bucket in buckets]
    assert {row["stem"] for row in exported(tmp_path)} == {stems[3], stems[4]}
    assert "2 turns held back" in card(tmp_path)
    report(tmp_path, "--with-refined")
    assert {row["stem"] for row in exported(tmp_path)} == {stems[0], stems[3], stems[4]}
    by_stem = {row["stem"]: row for row in exported(tmp_path)}
    assert json.loads(by_stem[stems[0]]["meta"])["score_confirmed"] == 70.0
    fates = [row["export"] for row in read_csv(tmp_path)]
    assert fates[1] == f"not exported: {reader}" and "leak (path)" in fates[2]


def test_old_exports_go_and_an_empty_export_leaves_a_valid_card(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 60, instances=60, chars=100)
    report(tmp_path)
    assert (tmp_path / "export/chat-validation.jsonl").exists()
    (tmp_path / "export/mine.txt").write_text("mine")
    for stem in stems:
        rejudge(tmp_path, stem, DEFEAT)
    redo_duel(tmp_path)
    report(tmp_path)
    left = sorted(path.name for path in (tmp_path / "export").iterdir())
    assert left == ["README.md", "mine.txt"]
    assert "configs" not in front_matter(tmp_path)
    text = card(tmp_path)
    assert "There is no row yet" in text
    assert "from datasets import" not in text and "SFTTrainer" not in text


# ---------------------------------------------------------------------------------------- the card


def test_the_card_states_what_lies_there_and_keeps_the_licence_that_was_stated(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 6 + [REFINED] * 6, instances=24)
    report(tmp_path)
    front = front_matter(tmp_path)
    assert front["license"] == "unknown"
    assert [config["config_name"] for config in front["configs"]] == ["sft", "dpo", "chat", "tools"]
    named = set()
    for config in front["configs"]:
        named |= {part["path"] for part in config["data_files"]}
    assert named == {path.name for path in (tmp_path / "export").glob("*.jsonl")}
    for said in (
        "SWE-ZERO-12M-trajectories", "abc123", *JUDGES, "final from 80",
        "maker-a/writer",
    ):  # fmt: skip
        assert said in card(tmp_path)
    path = tmp_path / CARD
    stated = "license: other\nlicense_name: mine\nlicense_link: LICENSE"
    path.write_text(read(path).replace("license: unknown", stated))
    rejudge(tmp_path, stems[0], DEFEAT)
    redo_duel(tmp_path)
    report(tmp_path, "--with-refined")
    front = front_matter(tmp_path)
    licence = [front[key] for key in ("license", "license_name", "license_link")]
    assert licence == ["other", "mine", "LICENSE"]
    assert {row["stem"] for row in exported(tmp_path)} == set(stems[1:])
    path.write_text("---\nlicense: [mit\n---\n")  # what the user stated there cannot be read
    stopped = report(tmp_path, code=2).stderr
    assert CARD in stopped and "mend its first lines, or delete the file" in stopped
    assert read(path) == "---\nlicense: [mit\n---\n"


def test_a_local_dataset_is_named_without_its_path(tmp_path):
    make_run(tmp_path, [FINAL] * 3)
    edit(tmp_path / "prompt/_plan.json", dataset="/home/someone/secret-place/data")
    report(tmp_path)
    for name in (CARD, "report/report.md"):
        text = read(tmp_path / name)
        assert "someone" not in text and "local files data" in text


def test_the_card_says_how_the_run_was_checked(tmp_path):
    stems = make_run(tmp_path, [FINAL] * 20, instances=20)
    report(tmp_path)
    text = card(tmp_path)
    assert "Of 20 challengers audited, 0 (0 %) have a hit" in text
    assert "who cannot have leaked: 2 of 20 (10 %)" in text  # every tenth king of the maker's
    assert "No reader's test was run" in text and "the panel's one look" in text
    assert "judged again, they would come out lower" in text
    second_look = {
        "models": ["maker-d/second"], "band": [73, 90], "turns": 8, "mean_first": 81.0,
        "mean_confirmed": 76.5, "reader": "maker-e/reader", "read": 40,
        "named": {"challenger": 6, "king": 2, "assistant": 0},
    }  # fmt: skip
    again = {"kept": 20, "kept_mean": 90.0, "reliability": 0.8, "kept_again": 84.25}
    edit(tmp_path / "score/_duel.json", second_look=second_look, kept_again=again)
    report(tmp_path)
    text = card(tmp_path)
    assert "73 to 90 points) 8 turns were judged again by maker-d/second" in text
    assert "mean 81.0 at the first look, 76.5 after both" in text
    assert "maker-e/reader, who wrote neither reply, was shown" in text
    assert "named the challenger in 6 (15 %, 8 % to 26 %) and the king in 2 (5 %," in text
    assert "final/ average 90.0" in text and "about 84.2" in text
    assert "catch rate" not in text and "Neither rate says how many leaks were missed" in text
    for stem in stems:
        answer = get(tmp_path / f"answer_0/{stem}.json")
        del answer["meta"]["king"]["leaks"], answer["meta"]["challenger"]["leaks"]
        put(tmp_path / f"answer_0/{stem}.json", answer)
    report(tmp_path)
    assert "No stored reply carries an audit." in card(tmp_path)


def test_the_card_says_which_benchmarks_were_kept_out(tmp_path):
    make_run(tmp_path, [FINAL] * 3)
    report(tmp_path)
    assert "**Overlap with public benchmarks was not checked**" in card(tmp_path)
    checked = {"name": "princeton-nlp/SWE-bench", "commit": "0123abc", "state": "checked",
               "instances": 2294, "overlaps": ["a__b-1", "a__b-2"]}  # fmt: skip
    missing = {"name": "some/SWE-bench_Pro", "state": "not checked", "why": "HTTP 503"}
    edit(tmp_path / "prompt/_plan.json", benchmarks={"lists": [checked, missing]})
    report(tmp_path)
    assert "| princeton-nlp/SWE-bench | 0123abc | 2,294 | 2 instances |" in read(tmp_path / CARD)
    assert "**Overlap with some/SWE-bench_Pro was not checked** (HTTP 503)" in card(tmp_path)


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    starts = ["=", "+", "-", "@", "\t", "＝", "＋", "－", "＠", "﹢"]
    stems = make_run(tmp_path, [FINAL] * len(starts))
    for stem, mark in zip(stems, starts):
        edit(tmp_path / f"score/{stem}.json", reason=f"{mark}HYPERLINK(1)")
    report(tmp_path)
    rows = read_csv(tmp_path)
    assert [row["reason"] for row in rows] == [f"'{mark}HYPERLINK(1)" for mark in starts]
    assert all(float(row["protocol"]) > 0 and row["protocol_problem"] == "" for row in rows)
