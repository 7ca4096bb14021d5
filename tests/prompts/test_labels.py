"""Harmful, harmless or unlabelled: by a column, the published set, a file's name, or the user."""

import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.prompts.sources.labels import label_of_name

NAMES = {
    "harmful": "harmful_test harmful-behaviors advbench harmbench_all HarmfulPrompts "
    "or-bench-toxic malicious_instruct strongreject_small",
    "harmless": "harmless_test benign-behaviors harmless_alpaca alpaca_data wildguard_unharmful "
    "non-harmful non_harmful_prompts NonHarmful nonharmful not_harmful pseudo-harmful "
    "seemingly-harmful or-bench-80k or_bench_hard jailbreakbench_benign advbench_harmless",
    None: "asked pharmacy charming types_of_harm behaviors xstest safety",
    "refused": "benign_malicious harmful_vs_harmless harmful_and_benign unharmful_and_harmful "
    "less_harmful harmful-looking almost_harmful harmfulness not_benign not-harmless "
    "non-malicious toxic-chat SafeRLHF unsafe not_unsafe harmful_or_not without_harmful",
}


@pytest.mark.parametrize(("label", "name"), [(k, n) for k, v in NAMES.items() for n in v.split()])
def test_the_words_of_a_name(label, name):
    if label == "refused":
        with pytest.raises(InputError, match=r"write harmful=FILE, harmless=FILE or unlabelled="):
            label_of_name(name, "file")
    else:
        assert label_of_name(name, "file") == label


def test_a_label_column_wins_over_the_name(tmp_path):
    for column, values in (
        ("label", "safe unsafe"),
        ("prompt_harm_label", "unharmful harmful"),
        ("Harm_Label", "Non-Harmful HARMFUL"),
    ):
        rows = [{"prompt": BREAD, column: value} for value in values.split()]
        rows.append({"prompt": EGG, column: None})
        prompts = read_prompts([write_file(tmp_path, "harmful_subset.jsonl", rows)])
        assert [p.label for p in prompts] == ["harmless", "harmful", None]


def test_a_label_that_contradicts_the_user_or_the_name_is_refused(tmp_path):
    file = write_file(tmp_path, "asked.csv", f"prompt,label\n{BREAD},harmful\n{EGG},safe\n")
    with pytest.raises(InputError, match=r"asked.csv, row 2 is harmless by its column label"):
        read_prompts([f"harmful={file}"])
    assert [p.label for p in read_prompts([f"harmful={file}"], ["label="])] == ["harmful"] * 2
    assert [p.label for p in read_prompts([f"unlabelled={file}"])] == [None] * 2
    file = write_file(tmp_path, "benign.csv", f"goal,target\n{BREAD},Sure\n")
    with pytest.raises(InputError, match="columns of AdvBench, whose prompts are harmful"):
        read_prompts([file])
    assert read_prompts([f"harmless={file}"])[0].label == "harmless"
    file = write_file(tmp_path, "asked.json", [{"harmful": BREAD, "harmless": EGG}])
    with pytest.raises(InputError, match="row 1 holds a pair, whose prompts have both labels"):
        read_prompts([f"harmful={file}"])


def test_values_that_are_no_labels_are_named(tmp_path):
    rows = [{"text": BREAD, "label": 1}, {"text": EGG, "label": 0}]
    for file in (write_file(tmp_path, name, rows) for name in ("a.parquet", "a.jsonl")):
        with pytest.raises(InputError, match=r"label '1' is no label.*label=label:VALUE=harmful"):
            read_prompts([file])
        prompts = read_prompts([file], ["label=label:1=harmful,0=harmless"])
        assert [p.label for p in prompts] == ["harmful", "harmless"]
        assert [p.label for p in read_prompts([f"harmless={file}"])] == ["harmless"] * 2


@pytest.mark.parametrize("column", ["is_safe", "Harmful", "prompt_harm", "toxicity", "unsafe"])
def test_a_column_that_may_hold_the_label_is_not_overlooked(tmp_path, column):
    file = write_file(tmp_path, "harmful_set.jsonl", [{"prompt": BREAD, column: False}])
    with pytest.raises(InputError, match=f"line 1: the column {column.lower()} .*may hold the lab"):
        read_prompts([file])
    said = [f"label={column}:true=harmful,false=harmless"]
    assert read_prompts([file], said)[0].label == "harmless"
    assert read_prompts([file], [f"drop={column}"])[0].label == "harmful"
    assert read_prompts([f"unlabelled={file}"])[0].label is None


def test_labels_of_two_columns_must_agree(tmp_path):
    file = write_file(tmp_path, "a.csv", f"prompt,label,harm_label\n{BREAD},safe,harmful\n")
    with pytest.raises(InputError, match="row 1: the columns label, harm_label differ"):
        read_prompts([file])
