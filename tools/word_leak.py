"""Print how well a bag of words separates harmful from harmless built-in prompts (held-out AUROC).

Three times: by the prompt, by the thoughts that are made for it, and by both. TF-IDF with logistic
regression, folds grouped by pair. 0.5 would be no leak; published contrast sets have about 0.9.
Thoughts may have at most 0.20 more than prompts. Needs scikit-learn, which is in the test extra.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from jaxdepth.prompts.datasets import Prompt, read_acts, read_prompts
from jaxdepth.tune.thoughts import make_thoughts

BOUND = 0.20  # of the AUROC of thoughts above that of prompts


def word_leak(
    names=("builtin:pairs",), shuffles: int = 5, of: str = "prompt", thoughts: int = 4
) -> float:
    """Mean AUROC over `shuffles` assignments of the pairs to five folds.

    Args:
        of: the text that is classified: `prompt`, `thought`, or `both` of them; each of a prompt's
            thoughts is a text of its own.
        thoughts: how many of each prompt.
    """
    acts = read_acts()
    rows = [(p, text) for p in read_prompts(names) for text in _texts(p, acts, of, thoughts)]
    harmful = np.array([p.label == "harmful" for p, _ in rows])
    pairs = np.unique([p.pair_id for p, _ in rows], return_inverse=True)[1]
    texts = [text for _, text in rows]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=2000))
    scores = []
    for seed in range(shuffles):
        groups = np.random.default_rng(seed).permutation(pairs.max() + 1)[pairs]
        folds = GroupKFold(5)
        out = cross_val_predict(
            model, texts, harmful, groups=groups, cv=folds, method="decision_function"
        )
        scores.append(roc_auc_score(harmful, out))
    return float(np.mean(scores))


def _texts(prompt: Prompt, acts: Mapping[str, str], of: str, count: int) -> Sequence[str]:
    if of == "prompt":
        return [prompt.text]
    thoughts = make_thoughts(prompt.text, acts.get(prompt.text), prompt.category, count)
    return thoughts if of == "thought" else [f"{prompt.text} {t}" for t in thoughts]


if __name__ == "__main__":
    prompt, thought, both = (word_leak(of=kind) for kind in ("prompt", "thought", "both"))
    print(f"bag-of-words AUROC of harmful against harmless: {prompt:.3f}")
    print(f"by thoughts alone: {thought:.3f} (at most {prompt + BOUND:.3f}); by both: {both:.3f}")
