"""Print how well a bag of words separates harmful from harmless built-in prompts (held-out AUROC).

TF-IDF with logistic regression, folds grouped by pair. 0.5 would be no leak; published contrast
sets have about 0.9. Needs scikit-learn, which is in the test extra.
"""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from jaxdepth.prompts.datasets import read_prompts


def word_leak(names=("builtin:pairs",), shuffles: int = 5) -> float:
    """Mean AUROC over `shuffles` assignments of the pairs to five folds."""
    prompts = read_prompts(names)
    texts = [p.text for p in prompts]
    harmful = np.array([p.label == "harmful" for p in prompts])
    pairs = np.unique([p.pair_id for p in prompts], return_inverse=True)[1]
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


if __name__ == "__main__":
    print(f"bag-of-words AUROC of harmful against harmless: {word_leak():.3f}")
