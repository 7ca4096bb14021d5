"""Comparing checkpoints without a model: the built-in sets, and planted differences recovered."""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from studies import records

from jaxdepth import InputError
from jaxdepth.probing.folds import make_folds
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.study.checkpoints.knowledge import compare_knowledge, read_questions
from jaxdepth.study.checkpoints.run import compare_probes
from jaxdepth.study.checkpoints.tables import KNOWLEDGE
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.probes.tables import PROBE_SCORES
from jaxdepth.study.run_directory import Run


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_control_pairs_differ_in_their_class_alone():
    prompts = read_prompts(["builtin:control"])
    pairs = {}
    for p in prompts:
        pairs.setdefault(p.pair_id, {})[p.category] = p.text
    assert len(pairs) == 60
    assert all(set(pair) == {"cooking", "growing"} for pair in pairs.values())
    assert {p.label for p in prompts} == {"harmless"}
    assert len({p.text for p in prompts}) == 120
    overlap = []
    for pair in pairs.values():
        a, b = (set(words_of(text)) for text in pair.values())
        overlap.append(len(a & b) / len(a | b))
    assert np.mean(overlap) > 0.5  # one surface, two meanings
    vocabulary = sorted({w for p in prompts for w in words_of(p.text)})
    x = np.array([[w in words_of(p.text) for w in vocabulary] for p in prompts], float)
    y = np.array([p.category == "cooking" for p in prompts])
    fold = make_folds([p.pair_id for p in prompts], y, 5)
    score = np.zeros(len(y))
    for f in range(5):
        fitted = LogisticRegression(max_iter=1000).fit(x[fold != f], y[fold != f])
        score[fold == f] = fitted.decision_function(x[fold == f])
    assert roc_auc_score(y, score) < 0.78  # words alone hardly tell the classes apart


def test_built_in_knowledge_set():
    questions = read_questions("builtin:facts")
    count = Counter(q.domain for q in questions)
    assert count["general"] >= 60
    assert count["neighbouring"] >= 24
    assert len({q.text for q in questions}) == len(questions)
    for question in questions:
        answers = [question.right, *question.wrong]
        assert len({a.lower() for a in answers}) == 4
        assert question.text.endswith("?")
        assert question.right.lower() not in words_of(question.text)
    prompts = read_prompts(["builtin:facts"])
    assert [(p.prompt_id, p.text) for p in prompts] == [(q.prompt_id, q.text) for q in questions]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "holds no questions"),
        ("{", "line 1 is not valid JSON"),
        ('["a"]', r"line 1 is \['a'\], expected an object"),
        ('{"question": "a", "right": "b"}', "line 1 lacks wrong"),
        ('{"question": "a", "right": "b", "wrong": []}', "a list of them in wrong"),
        ('{"question": "a", "right": "b", "wrong": [3]}', "wrong = 3; expected a string"),
    ],
)
def test_lines_that_are_no_question(tmp_path, line, says):
    (tmp_path / "f.jsonl").write_text(line)
    with pytest.raises(InputError, match=says):
        read_questions(str(tmp_path / "f.jsonl"))
    question = {"prompt_id": "x", "question": "a", "right": "b", "wrong": ["c"]}
    (tmp_path / "f.jsonl").write_text(f"{json.dumps(question)}\n" * 2)
    with pytest.raises(InputError, match="prompt ids repeat"):
        read_questions(str(tmp_path / "f.jsonl"))


def write_scores(path: Path, positive, fold, score_XN, prefix: str) -> None:
    """A run with made-up scores of the probe."""
    run = Run.open(path, {}, {})
    names = [f"{prefix}-{n:03d}" for n in range(len(positive))]
    prompts = [
        {
            "prompt_id": i,
            "text": i,
            "label": "harmless",
            "source": "s",
            "pair_id": f"{prefix}-{n // 2}",
        }
        for n, i in enumerate(names)
    ]
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    rows = [
        {"target": "content", "position": "last", "layer": x, "set": "own", "prompt_id": i}
        | {"fold": int(fold[n]), "positive": bool(positive[n]), "score": float(score_N[n])}
        for x, score_N in enumerate(score_XN)
        for n, i in enumerate(names)
    ]
    run.write_table(PROBE_SCORES.name, PROBE_SCORES.from_rows(rows))


def test_a_planted_gain_is_recovered_where_it_is(tmp_path):
    """From layer 2 on the second checkpoint is sharper, in the dangerous domain alone."""
    rng = np.random.default_rng(0)
    positive = np.arange(240) % 2 == 0
    fold = make_folds(np.arange(240) // 2, positive, 4)
    for domain in (".", "control"):
        for side in ("base", "against"):
            strength = np.full(5, 0.7)
            if (domain, side) == (".", "against"):
                strength[2:] = 2.6
            score_XN = rng.standard_normal((5, 240)) + strength[:, None] * positive
            write_scores(tmp_path / domain / side, positive, fold, score_XN, domain)
    rows = {(r["domain"], r["layer"]): r for r in records(compare_probes(tmp_path, 400, 0))}
    for domain in ("dangerous", "dangerous - control"):
        significant = [rows[domain, layer]["p_holm"] < 0.05 for layer in range(5)]
        assert significant == [False, False, True, True, True], domain
        assert rows[domain, None]["low"] > 0.05
    assert all(rows["control", layer]["p_holm"] > 0.05 for layer in range(5))
    assert rows["control", None]["low"] < 0 < rows["control", None]["high"]
    truth = NormalDist().cdf(2.6 / 2**0.5) - NormalDist().cdf(0.7 / 2**0.5)
    assert rows["dangerous", 3]["low"] < truth < rows["dangerous", 3]["high"]


def test_planted_loss_of_knowledge_is_recovered(tmp_path):
    """The second checkpoint forgets half of the neighbouring answers at exit 2, and no general one;
    a question that its tokenizer cannot ask is no part of the comparison."""
    rng = np.random.default_rng(1)
    for side in ("base", "against"):
        run, rows = Run.open(tmp_path / side, {}, {}), []
        for domain in ("general", "neighbouring"):
            for n in range(60 if side == "base" else 59):
                for exit in (1, 2):
                    lost = side == "against" and domain == "neighbouring" and exit == 2 and n % 2
                    margin = rng.normal(0.0, 0.1) + (-1.0 if lost else 1.0)
                    of = {"prompt_id": f"{domain}-{n:02d}", "domain": domain, "exit": exit}
                    rows.append(of | {"logprob": -1.0, "margin": margin, "right": margin > 0})
        run.write_table("facts", KNOWLEDGE.from_rows(rows))
    rows = records(compare_knowledge(tmp_path / "base", tmp_path / "against", 400, 0))
    by = {(r["measure"], r["domain"], r["layer"]): r for r in rows}
    row = by["right", "neighbouring", 2]
    assert (row["n"], row["base"], row["against"]) == (59, 1.0, pytest.approx(30 / 59))
    assert row["low"] < -29 / 59 < row["high"] < -0.3
    between = by["right", "neighbouring - general", 2]
    assert between["difference"] == pytest.approx(-29 / 59)
    assert between["p_holm"] < 0.001
    assert by["right", "general", 2]["difference"] == 0
    assert by["margin", "general", 2]["p_holm"] > 0.05
