"""Prompt files: our pairs, the published sets by their columns, and all that can be wrong."""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from jaxdepth import InputError
from jaxdepth.prompts.datasets import prompts_digest, read_acts, read_prompts
from jaxdepth.refusal.encoder import Encoder


def test_built_in_pairs():
    prompts = read_prompts(["builtin:pairs"])
    pairs = {}
    for p in prompts:
        pairs.setdefault(p.pair_id, {})[p.label] = p
    assert len(pairs) >= 1200
    assert all(set(pair) == {"harmful", "harmless"} for pair in pairs.values())
    assert all(len({p.category for p in pair.values()}) == 1 for pair in pairs.values())
    categories = Counter(p.category for p in prompts)
    assert len(categories) == 14
    assert min(categories.values()) >= 170
    overlap = []
    for pair in pairs.values():
        words = [set(re.findall(r"[a-z]+", p.text.lower())) for p in pair.values()]
        overlap.append(len(words[0] & words[1]) / len(words[0] | words[1]))
    assert sum(overlap) / len(overlap) > 0.5  # one surface, two meanings


def test_words_alone_hardly_separate_the_two_prompts_of_a_pair():
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    from word_leak import word_leak

    assert word_leak(shuffles=1) < 0.60


def test_built_in_prompts_say_what_they_ask():
    acts = read_acts()
    for p in read_prompts(["builtin:pairs", "builtin:lookalikes"]):
        assert re.fullmatch(r"[a-z]+ing( .*)?[^.?!]", acts[p.text]), p.text
    lookalikes = Counter(p.category for p in read_prompts(["builtin:lookalikes"]))
    assert len(lookalikes) == 7
    assert min(lookalikes.values()) == 58


def test_no_two_prompts_are_nearly_the_same():
    """By their words; of a pair the two prompts are alike on purpose."""
    prompts = read_prompts(["builtin:pairs", "builtin:lookalikes"])
    matrix = CountVectorizer(binary=True, token_pattern=r"[a-z']+").fit_transform(
        p.text for p in prompts
    )
    both = (matrix @ matrix.T).toarray().astype(float)
    sizes = np.diag(both)
    jaccard = both / (sizes[:, None] + sizes - both)
    cluster = np.unique([p.cluster_id for p in prompts], return_inverse=True)[1]
    jaccard[cluster[:, None] == cluster] = 0
    assert jaccard.max() <= 0.6


def test_no_two_prompts_mean_nearly_the_same():
    """By a sentence encoder: what harmful prompts of different pairs ask for differs."""
    path = os.environ.get("JAXDEPTH_ENCODER")
    if path is None:
        pytest.skip("JAXDEPTH_ENCODER names no folder with a sentence encoder")
    prompts = [p for p in read_prompts(["builtin:pairs"]) if p.label == "harmful"]
    vectors_ND = Encoder.open(path).embed([p.text for p in prompts])
    cosine_NN = vectors_ND @ vectors_ND.T
    np.fill_diagonal(cosine_NN, 0)
    assert cosine_NN.max() <= 0.95
    assert (cosine_NN.max(axis=1) > 0.85).mean() <= 0.05


def test_built_in_texts_are_single_lines_and_unique():
    prompts = read_prompts(["builtin:pairs", "builtin:ordinary"])
    assert sum(p.source == "builtin:ordinary" for p in prompts) == 200
    assert all(p.label == "harmless" for p in prompts if p.source == "builtin:ordinary")
    bare = [re.sub(r"\W+", " ", p.text.lower()).strip() for p in prompts]
    assert len(set(bare)) == len(bare)
    assert not any("\n" in p.text for p in prompts)


def test_built_in_pairs_of_two_categories():
    """Every combination several times, so that folds can hold some of each out."""
    all_categories = {p.category for p in read_prompts(["builtin:pairs"])}
    prompts = read_prompts(["builtin:two_categories"])
    times = Counter(p.category for p in prompts if p.label == "harmful")
    assert len(times) == 8
    assert min(times.values()) >= 5
    for both in times:
        first, second = both.split("+")
        assert first < second
        assert {first, second} <= all_categories
    pairs = {}
    for p in prompts:
        pairs.setdefault(p.pair_id, {})[p.label] = set(re.findall(r"[a-z]+", p.text.lower()))
    assert len({frozenset(w) for pair in pairs.values() for w in pair.values()}) == 96
    overlap = [
        len(pair["harmful"] & pair["harmless"]) / len(pair["harmful"] | pair["harmless"])
        for pair in pairs.values()
    ]
    assert sum(overlap) / len(overlap) > 0.5
    others = {p.text for p in read_prompts(["builtin:pairs", "builtin:ordinary"])}
    assert not others & {p.text for p in prompts}


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return str(path)


SETS = {
    "AdvBench": ("behaviors.csv", 'goal,target\nDo harm,Sure\n"Do, more",Sure\n', "harmful", 2),
    "HarmBench": (
        "hb.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        'Say it,contextual,cat,,"some\ncontext",id_1\nDo it,standard,cat,,,id_2\n',
        "harmful",
        2,
    ),
    "JailbreakBench": (
        "harmful-behaviors.csv",
        "Index,Goal,Target,Behavior,Category,Source\n0,Do harm,Sure,Name,Cat,Original\n",
        "harmful",
        1,
    ),
    "JailbreakBench benign": (
        "benign-behaviors.csv",
        "Index,Goal,Target,Behavior,Category,Source\n0,Do good,Sure,Name,Cat,Original\n",
        "harmless",
        1,
    ),
    "XSTest": (
        "xs.csv",
        "id,prompt,type,label,focus,note\n1,Kill a process?,homonyms,safe,kill,\n",
        "harmless",
        1,
    ),
    "XSTest early": (
        "xs.csv",
        "id,prompt,type,focus,note\n1,Kill a man?,contrast_homonyms,kill,\n",
        "harmful",
        1,
    ),
    "refusal_direction": (
        "harmless_val.json",
        [{"instruction": "List fruits", "category": None}],
        "harmless",
        1,
    ),
    "lines of JSON": ("x.jsonl", '{"text": "a", "label": "unsafe"}\n\n', "harmful", 1),
    "BOM and CRLF": ("advbench.csv", "\ufeffgoal,target\r\nDo harm,Sure\r\n", "harmful", 1),
    "JSON of strings": ("alpaca.json", ["a", "b"], "harmless", 2),
    "line separator inside": ("benign.jsonl", '{"prompt": "a\u2028b"}\n', "harmless", 1),
}


@pytest.mark.parametrize("name", SETS)
def test_published_sets_by_their_columns(tmp_path, name):
    file, content, label, count = SETS[name]
    prompts = read_prompts([write(tmp_path, file, content)])
    assert len(prompts) == count
    assert {p.label for p in prompts} == {label}
    assert all(p.source == file for p in prompts)
    if name == "HarmBench":
        assert prompts[0].text == "some\ncontext\n\n---\n\nSay it"
        assert prompts[1].text == "Do it"
        assert prompts[1].prompt_id == "hb-id_2"


def test_pairs_of_a_user(tmp_path):
    rows = [{"harmful": "a", "harmless": "b", "pair_id": "x", "category": "c"}]
    prompts = read_prompts([write(tmp_path, "mine.json", rows)])
    assert [(p.label, p.text, p.pair_id) for p in prompts] == [
        ("harmful", "a", "mine-x"),
        ("harmless", "b", "mine-x"),
    ]


def test_several_files_and_labels_in_front(tmp_path):
    one = write(tmp_path, "one.txt", "a\nb\n")
    two = write(tmp_path, "two.csv", "prompt\nc\n")
    prompts = read_prompts([f"harmful={one}", f"harmless={two}"])
    assert [p.label for p in prompts] == ["harmful", "harmful", "harmless"]
    assert prompts_digest(prompts) != prompts_digest(prompts[:2])
    assert prompts_digest(prompts) == prompts_digest(read_prompts([f"unsafe={one}", f"safe={two}"]))


BAD = {
    "empty csv": ("a.csv", "", "no prompts"),
    "header only": ("a.csv", "prompt,label\n", "no prompts"),
    "empty jsonl": ("a.jsonl", "\n\n", "no prompts"),
    "empty json": ("a.json", "", "no prompts"),
    "empty list": ("a.json", [], "no prompts"),
    "no prompt column": ("a.csv", "name,age\nx,3\n", "columns name, age.*expected one of prompt"),
    "bad label": ("a.csv", "prompt,label\nx,maybe\n", "label 'maybe'"),
    "blank prompt": ("a.csv", 'prompt,label\n" ",safe\n', "row 1.*empty"),
    "broken json": ("a.json", "[{", "not valid JSON"),
    "broken line": ("a.jsonl", '{"prompt": "x", "label": "safe"}\n{\n', "line 2"),
    "object": ("a.json", {"prompt": "x"}, "expected a list"),
    "numbers": ("a.json", [1, 2], "holds a int"),
    "number as prompt": (
        "a.json",
        [{"prompt": 3, "label": "safe"}],
        r"is a number \(3\)",
    ),
    "unclosed quote": ("a.csv", 'prompt,label\n"x,safe\n', "not valid CSV"),
    "other kind": ("a.yaml", "x", "expected a"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_error(tmp_path, name):
    file, content, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        read_prompts([write(tmp_path, file, content)])
    assert "a." in str(caught.value)


def test_the_first_of_a_source(tmp_path):
    prompts = read_prompts(["builtin:harmful[:200]", "builtin:ordinary[:50]"])
    assert Counter(p.label for p in prompts) == {"harmful": 200, "harmless": 50}
    categories = Counter(p.category for p in prompts if p.label == "harmful")
    assert set(categories.values()) == {20}
    one = write(tmp_path, "one.txt", "a\nb\nc\n")
    assert [p.text for p in read_prompts([f"harmless={one}[:2]"])] == ["a", "b"]


def test_other_bad_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_prompts([str(tmp_path / "none.csv")])
    with pytest.raises(InputError, match="did you mean 'pairs'"):
        read_prompts(["builtin:pair"])
    with pytest.raises(InputError, match="no prompts"):
        read_prompts([])
    with pytest.raises(InputError, match="repeat"):
        read_prompts(["builtin:pairs", "builtin:pairs"])
    (tmp_path / "latin.csv").write_bytes("prompt,label\ncaf\xe9,safe\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts([str(tmp_path / "latin.csv")])


def test_the_published_files_themselves(data_dir):
    expected = {
        "xstest/xstest_prompts.csv": {"harmless": 250, "harmful": 200},
        "refusal_direction/harmful_train.json": {"harmful": 260},
        "refusal_direction/harmful_val.json": {"harmful": 39},
        "refusal_direction/harmless_train_600.json": {"harmless": 600},
        "refusal_direction/harmless_val_200.json": {"harmless": 200},
        "refusal_direction/advbench.json": {"harmful": 520},
    }
    prompts = read_prompts([str(data_dir / name) for name in expected])
    for name, counts in expected.items():
        label_counts = Counter(p.label for p in prompts if p.source == name.split("/")[1])
        assert label_counts == counts, name


def test_the_built_in_prompts_are_our_own(data_dir):
    published = read_prompts(
        [str(p) for p in sorted(data_dir.rglob("*.json"))]
        + [str(data_dir / "xstest/xstest_prompts.csv")]
    )
    bare = lambda p: re.sub(r"\W+", " ", p.text.lower()).strip()  # noqa: E731
    ours = {bare(p) for p in read_prompts(["builtin:pairs", "builtin:ordinary"])}
    assert not ours & {bare(p) for p in published}
