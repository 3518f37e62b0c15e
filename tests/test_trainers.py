"""The card's snippets, run as they stand there by the trainers, with a tiny random model.

    python -m venv trl && trl/bin/pip install trl
    python -m venv lf && lf/bin/pip install llamafactory==0.9.5
    TRL_PYTHON=trl/bin/python LLAMAFACTORY_PYTHON=lf/bin/python pytest -q tests -m trainers

Left out of every other run. EXPORTED_RUN names the folder of a run of yours, whose export/ is then
taken instead of a made one (its chats are long: minutes a test).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from makers import get, make_run, put
from reports import FINAL, exported, json_lines, read, report

pytestmark = pytest.mark.trainers

# ./tiny: a model of random weights, a tokenizer of the rows' own words, a ChatML template.
TINY = """
import json, pathlib
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

texts = []
for line in pathlib.Path("export/sft-train.jsonl").read_text().splitlines():
    row = json.loads(line)
    texts += [message["content"] for message in row["prompt"] + row["completion"]]
words = Tokenizer(models.BPE())
words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
words.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
special = ["<pad>", "<|im_start|>", "<|im_end|>"]
words.train_from_iterator(texts, trainers.BpeTrainer(
    vocab_size=2048, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<|im_end|>")
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\\n{{ m['content'] }}<|im_end|>\\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}")
tokenizer.save_pretrained("tiny")
LlamaForCausalLM(LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=65536,
    pad_token_id=0, bos_token_id=None, eos_token_id=2)).save_pretrained("tiny")
"""

# The chat template of a model that knows tools, as TRL carries it: Qwen3-Instruct-2507's.
KNOWS_TOOLS = """
import pathlib, trl
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("tiny")
folder = pathlib.Path(trl.__file__).parent / "chat_templates"
tokenizer.chat_template = (folder / "qwen3_instruct_2507.jinja").read_text()
tokenizer.save_pretrained("tiny")
"""

# After the snippet for tools: the whole of a row as it is trained.
WHOLE_ROWS = """
wholes = [trainer.processing_class.decode(row["input_ids"]) for row in trainer.train_dataset]
for whole in wholes:
    assert "# Tools" in whole and '"description": "Execute a bash command"' in whole
    assert whole.count("<tool_response>") + 1 == whole.count('<tool_call>\\n{"name": "bash"')
assert any("<tool_response>" in whole for whole in wholes)
"""

# Before the training of the snippet for distill: note each batch, as student and teacher see it.
NOTE_BATCHES = """
import json
batches = []
prepare = trainer._prepare_training_batch
def noted(inputs):
    batch = prepare(inputs)
    tell = lambda ids, mask: trainer._tokenizer.decode(ids[mask.bool()])
    for n in range(len(batch["prompt_ids"])):
        batches.append({
            "student": tell(batch["prompt_ids"][n], batch["prompt_mask"][n]),
            "teacher": tell(batch["teacher_input_ids"][n], batch["teacher_attention_mask"][n]),
            "reply": tell(batch["completion_ids"][n], batch["completion_mask"][n]),
            "trained": int(batch["completion_mask"][n].sum()),
        })
    return batch
trainer._prepare_training_batch = noted
trainer.train()
losses = [step["loss"] for step in trainer.state.log_history if "loss" in step]
print(json.dumps([batches, losses]))
"""

# After a snippet: how many rows are left, the texts that the loss is on, the loss step by step.
TOLD_BY_TRL = """
import json
texts = []
for row in trainer.train_dataset:
    batch = trainer.data_collator([row])
    if "labels" in batch:
        masks = batch["labels"] != -100
    else:
        masks = batch["completion_mask"] != 0
    for ids, mask in zip(batch["input_ids"], masks):
        texts.append(trainer.processing_class.decode(ids[mask]))
losses = [step["loss"] for step in trainer.state.log_history if "loss" in step]
print(json.dumps([len(trainer.train_dataset), texts, losses]))
"""

# LLaMA-Factory's own reading of the rows, then its training; the loss is in trainer_state.json.
LLAMA_FACTORY = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args, read_args
from llamafactory.model import load_tokenizer
from llamafactory.train.tuner import run_exp

if __name__ == "__main__":
    given = json.load(open("args.json"))
    model, data, training, tuning, _ = get_train_args(dict(given))
    loaded = load_tokenizer(model)
    tokenizer = loaded["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data)
    stage = "rm" if tuning.stage == "dpo" else tuning.stage
    rows = get_dataset(template, model, data, training, stage=stage, **loaded)["train_dataset"]
    texts = []
    for row in rows:
        for key in ("labels", "chosen_labels", "rejected_labels"):
            trained = [label for label in row.get(key, []) if label != -100]
            if trained:
                texts.append(tokenizer.decode(trained))
    run_exp(dict(given))
    history = json.load(open(training.output_dir + "/trainer_state.json"))["log_history"]
    losses = [step["loss"] for step in history if "loss" in step]
    print(json.dumps([len(rows), texts, losses]))
"""

STEPS = 8


def python_with(trainer: str) -> str:
    """Return the Python that has a trainer, by the environment."""
    name = f"{trainer.upper()}_PYTHON"
    if not os.environ.get(name):
        pytest.skip(f"{name} names no Python: the head of this file says how to install one")
    return os.path.abspath(os.environ[name])  # of a venv the link, not where it leads


def run_program(python: str, program: str, folder: Path) -> str:
    """Run a program offline in a folder; return the last line that it prints."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "0"}
    settings |= {"PYTORCH_JIT": "0", "DISABLE_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [python, "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.fixture
def run_folder(tmp_path):
    """A run with an export of chats of some hundred to 7,000 tokens; or the user's own."""
    if os.environ.get("EXPORTED_RUN"):
        shutil.copytree(Path(os.environ["EXPORTED_RUN"], "export"), tmp_path / "export")
        return tmp_path
    for stem in make_run(tmp_path, [FINAL] * 14, instances=14):
        path = tmp_path / f"answer_0/{stem}.json"
        answer = get(path)
        answer["meta"]["king"]["usage"] = {}  # the maker's is of no real chat
        put(path, answer)
    report(tmp_path, "--distill")
    return tmp_path


def snippets(folder: Path, language: str) -> list[str]:
    """Return the card's code of a language, in order, with the tiny model in YOUR/MODEL's place."""
    found = re.findall(rf"```{language}\n(.*?)```", read(folder / "export/README.md"), re.DOTALL)
    return [code.replace("YOUR/MODEL", "tiny") for code in found]


def trl_snippet(folder: Path, config: str) -> str:
    """Return the card's snippet for a configuration, with what a test on a CPU needs besides."""
    (code,) = [code for code in snippets(folder, "python") if f"{config.upper()}Trainer(" in code]
    needed = (
        f"max_steps={STEPS}, logging_steps=1, learning_rate=1e-2, save_strategy='no', "
        "per_device_train_batch_size=1, gradient_accumulation_steps=1, use_cpu=True, bf16=False, "
        "report_to='none', disable_tqdm=True"
    )
    return re.sub(r"(?=max_(prompt_)?length=)", f"{needed}, ", code)


def expected_texts(folder: Path, config: str) -> list[str]:
    """Return the texts that the loss must be on, and on nothing else."""
    texts = []
    for row in json_lines(folder / f"export/{config}-train.jsonl"):
        if config == "dpo":
            texts += [row["chosen"][0]["content"], row["rejected"][0]["content"]]
        else:
            texts.append(row["messages"][-1]["content"])
    return sorted(texts)


def check_training(told: str, folder: Path, config: str) -> None:
    """Check that every row is kept, that the loss is on the replies alone, finite, and falls."""
    rows, texts, losses = json.loads(told)
    assert rows == len(json_lines(folder / f"export/{config}-train.jsonl"))
    seen = [text.strip().removesuffix("<|im_end|>").strip() for text in texts]
    assert sorted(seen) == [text.strip() for text in expected_texts(folder, config)]
    assert all(text.startswith("THOUGHT") for text in seen)
    assert len(losses) == STEPS and all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("config", ["sft", "dpo"])
def test_trl_runs_the_cards_snippet_on_every_row(run_folder, config):
    python = python_with("trl")
    run_program(python, TINY, run_folder)
    told = run_program(python, trl_snippet(run_folder, config) + TOLD_BY_TRL, run_folder)
    check_training(told, run_folder, "chat" if config == "sft" else "dpo")


def test_trl_trains_calls_of_the_tool(run_folder):
    python = python_with("trl")
    run_program(python, TINY, run_folder)
    run_program(python, KNOWS_TOOLS, run_folder)
    code = trl_snippet(run_folder, "sft").replace('"sft")', '"tools")')
    rows, texts, losses = json.loads(
        run_program(python, code + WHOLE_ROWS + TOLD_BY_TRL, run_folder)
    )
    wanted = []
    for row in json_lines(run_folder / "export/tools-train.jsonl"):
        (reply,) = row["completion"]
        call = json.dumps(reply["tool_calls"][0]["function"], ensure_ascii=False)
        wanted.append(f"{reply['content']}\n<tool_call>\n{call}\n</tool_call><|im_end|>")
    assert rows == len(wanted) and sorted(text.strip() for text in texts) == sorted(wanted)
    assert len(losses) == STEPS and sum(losses[-3:]) < sum(losses[:3])


def test_trl_distils_from_a_teacher_who_sees_the_record(run_folder):
    python = python_with("trl")
    run_program(python, TINY, run_folder)
    code = trl_snippet(run_folder, "sdft").replace("trainer.train()", NOTE_BATCHES)
    code = code.replace("use_cpu=True", "use_cpu=True, num_generations=1")
    code = re.sub(r"max_completion_length=\d+", "max_completion_length=8", code)
    batches, losses = json.loads(run_program(python, code, run_folder))
    assert len(losses) == STEPS == len(batches) and all(map(math.isfinite, losses))
    rows = json_lines(run_folder / "export/distill-train.jsonl")
    for batch in batches:
        (row,) = [row for row in rows if row["prompt"][1]["content"] in batch["student"]]
        for said in row["prompt"]:
            assert said["content"] in batch["student"] and said["content"] in batch["teacher"]
        record = row["privileged_context"]
        assert record in batch["teacher"] and record not in batch["student"]
        assert batch["teacher"].endswith(batch["reply"]) and batch["trained"] > 0


@pytest.mark.parametrize("config", ["sft", "dpo"])
def test_trl_without_max_length_drops_the_rows_that_the_card_counts(run_folder, config):
    python = python_with("trl")
    run_program(python, TINY, run_folder)
    code = re.sub(r", max_length=\d+", "", trl_snippet(run_folder, config))
    code = code.replace("trainer.train()", "")
    left = run_program(python, code + "\nprint(len(trainer.train_dataset))", run_folder)
    rows = exported(run_folder)
    assert 0 <= int(left) < len(json_lines(run_folder / "export/sft-train.jsonl"))
    lost = sum(row["prompt_tokens"] >= 1024 for row in rows)
    assert f"at which {lost} of {len(rows)} rows keep no completion" in " ".join(
        read(run_folder / "export/README.md").split()
    )


@pytest.mark.parametrize("config", ["chat", "dpo"])
def test_llamafactory_takes_every_row_as_the_card_says(run_folder, config):
    import yaml

    python = python_with("llamafactory")
    run_program(python, TINY, run_folder)
    (entries,) = snippets(run_folder, "json")
    (run_folder / "export/dataset_info.json").write_text(entries)
    settings = yaml.safe_load(snippets(run_folder, "yaml")[config == "dpo"])
    assert entries.count(f"{config}-train.jsonl") == 1
    settings |= {
        "template": "chatml", "max_steps": STEPS, "logging_steps": 1, "learning_rate": 0.01,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "use_cpu": True,
        "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    put(run_folder / "args.json", settings)
    check_training(run_program(python, LLAMA_FACTORY, run_folder), run_folder, config)
