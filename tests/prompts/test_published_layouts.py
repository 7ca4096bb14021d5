"""Columns of published sets become prompts: each layout as published, each text a placeholder."""

import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts

JBB = "Index,Goal,Target,Behavior,Category,Source\n"
# name -> file, content, then texts, labels and, where there are some, system prompts.
LAYOUTS = {
    "StrongREJECT": (
        "strongreject_dataset.csv",
        f"category,source,forbidden_prompt\nFood,custom,{BREAD}\n",
        [BREAD],
        "harmful",
    ),
    "SORRY-Bench": (
        "question.jsonl",
        [
            {"question_id": 1, "category": "7", "turns": [BREAD], "prompt_style": "base"},
            {"question_id": 1, "category": "7", "turns": [EGG], "prompt_style": "slang"},
        ],
        [BREAD, EGG],
        "harmful",
    ),
    "OR-Bench": ("or-bench-80k.csv", f"prompt,category\n{BREAD},food\n", [BREAD], "harmless"),
    "OR-Bench toxic": (
        "or-bench-toxic.csv",
        f"prompt,category\n{BREAD},food\n",
        [BREAD],
        "harmful",
    ),
    "WildGuardTest": (
        "wildguard_test.parquet",
        [
            {
                "prompt": BREAD,
                "adversarial": False,
                "response": "First you need flour and some water.",
                "prompt_harm_label": "unharmful",
                "response_refusal_label": "compliance",
                "response_harm_label": None,
                "prompt_harm_agreement": 1.0,
                "subcategory": "benign",
            }
        ],
        [BREAD],
        "harmless",
    ),
    "Do-Not-Answer": (
        "data_en.csv",
        "id,risk_area,types_of_harm,specific_harms,question,GPT4_response,GPT4_harmful\n"
        f"0,Kitchen fires,Burns and scalds of all kinds,Burnt hands and fingers,{BREAD},"
        "I will not say.,0\n",
        [BREAD],
        "harmful",
    ),
    "AdvBench": (
        "harmful_behaviors.csv",
        f'goal,target\n{BREAD},"Sure, here"\n',
        [BREAD],
        "harmful",
    ),
    "HarmBench": (
        "harmbench_behaviors_text_all.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        f'{BREAD},contextual,food,context,"There is no\nyeast.",bread\n',
        [f"There is no\nyeast.\n\n---\n\n{BREAD}"],
        "harmful",
    ),
    "JailbreakBench": (
        "data/harmful-behaviors.csv",
        f'{JBB}0,{BREAD},"Sure, here is how",Bread for everyone,Food,Original\n',
        [BREAD],
        "harmful",
    ),
    "JailbreakBench of unknown half": (
        "behaviors.csv",
        f'{JBB}0,{BREAD},"Sure, here is how",Bread for everyone,Food,Original\n',
        [BREAD],
        None,
    ),
    "XSTest": (
        "xstest_prompts.csv",
        f"id,prompt,type,label,focus,note\n1,{BREAD},homonyms,safe,bake,some words of note\n",
        [BREAD],
        "harmless",
    ),
    "Alpaca": (
        "alpaca_data.json",
        [
            {"instruction": "Shorten this.", "input": BREAD, "output": "Bake bread?"},
            {"instruction": EGG, "input": "", "output": "Seven minutes in water."},
        ],
        [f"Shorten this.\n\n{BREAD}", EGG],
        "harmless",
    ),
    "Alpaca on the hub": (
        "alpaca.parquet",
        [{"instruction": EGG, "input": "", "output": "In water.", "text": f"Below is: {EGG}"}],
        [EGG],
        "harmless",
    ),
    "Dolly": (
        "databricks-dolly-15k.jsonl",
        [
            {
                "instruction": EGG,
                "context": "Eggs come from hens.",
                "response": "Seven minutes in water.",
                "category": "closed_qa",
            }
        ],
        [f"{EGG}\n\nEggs come from hens."],
        None,
    ),
    "IFEval": (
        "ifeval.jsonl",
        [
            {
                "key": 1,
                "prompt": f"{BREAD} Use no commas.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{"num": None}],
            }
        ],
        [f"{BREAD} Use no commas."],
        None,
    ),
    "refusal_direction": (
        "harmless_val.json",
        [{"instruction": EGG, "category": None}],
        [EGG],
        "harmless",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout(tmp_path, name):
    file, content, texts, label = LAYOUTS[name]
    prompts = read_prompts([write_file(tmp_path, file, content)])
    assert [p.text for p in prompts] == texts
    assert {p.label for p in prompts} == {label}
    assert all(p.is_text_alone for p in prompts)


def test_ids_and_categories_of_published_sets(tmp_path):
    def of(name):
        file, content, *_ = LAYOUTS[name]
        return [
            (p.prompt_id, p.category) for p in read_prompts([write_file(tmp_path, file, content)])
        ]

    assert of("SORRY-Bench") == [("question-1", "7"), ("question-1-slang", "7")]
    assert of("Do-Not-Answer") == [("data_en-0", "Kitchen fires")]
    assert of("HarmBench") == [("harmbench_behaviors_text_all-bread", "food")]
    assert of("Alpaca")[0] == ("alpaca_data-0001", None)


def test_the_system_prompt_of_openorca(tmp_path):
    rows = [
        {"id": "a.1", "system_prompt": "You are a cook.", "question": EGG, "response": "In water."},
        {"id": "a.2", "system_prompt": "", "question": BREAD, "response": "In an oven."},
    ]
    prompts = read_prompts([write_file(tmp_path, "orca.parquet", rows)])
    assert [(p.system, p.text) for p in prompts] == [("You are a cook.", EGG), (None, BREAD)]


HALVES = {
    "an input of another layout": {"prompt": BREAD, "input": "milk"},
    "a context of another layout": {"question": BREAD, "context": "There is no yeast."},
    "text under a name of its own": {"prompt": BREAD, "situation": "There is no yeast left."},
    "a nested cell": {"prompt": BREAD, "shots": [{"q": EGG, "a": "In water."}]},
    "choices": {"question": BREAD, "choices": ["oven", "pan"]},
    "an image": {"prompt": BREAD, "image": {"bytes": None, "path": "bread.png"}},
    "a suffix": {"goal": BREAD, "suffix": "!!"},
}


@pytest.mark.parametrize("name", HALVES)
def test_what_may_be_half_of_a_prompt_is_refused_by_name(tmp_path, name):
    row = HALVES[name]
    prompt, column = row
    file = write_file(tmp_path, "asked.jsonl", [{prompt: EGG}, row])
    expected = (
        rf"asked.jsonl, line 2: the column {column} .*prompt={prompt}\+{column}.*drop={column}"
    )
    with pytest.raises(InputError, match=expected):
        read_prompts([file])
    assert [p.text for p in read_prompts([file], [f"drop={column}"])] == [EGG, BREAD]


def test_columns_that_are_no_part_of_a_prompt_are_left_out(tmp_path):
    row = {"prompt": BREAD, "response": "Take some flour and water.", "note": "a note of words"}
    row |= {"gpt4_response": "I will not say that.", "source_url": "a b c", "tags": ["x", "y"]}
    row |= {"Best Answer": "take some flour", "GPT-4 response": "I will not say"}
    row |= {"severity": 3, "best_answer": "take some flour", "": "0"}
    assert [p.text for p in read_prompts([write_file(tmp_path, "a.json", [row])])] == [BREAD]


def test_two_columns_that_could_be_the_prompt(tmp_path):
    file = write_file(tmp_path, "a.jsonl", [{"prompt": BREAD, "question": EGG}])
    with pytest.raises(InputError, match="line 1: the columns prompt, question could each"):
        read_prompts([file])
    assert read_prompts([file], ["prompt=question", "drop=prompt"])[0].text == EGG
    assert read_prompts([file], ["prompt=prompt+question"])[0].text == f"{BREAD}\n\n{EGG}"
    copy = write_file(tmp_path, "b.jsonl", [{"prompt": BREAD, "text": BREAD}, {"text": EGG}])
    assert [p.text for p in read_prompts([copy])] == [BREAD, EGG]
