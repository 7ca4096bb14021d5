"""How well harm is readable from an untouched model: `readable_harm.py MODEL [--layers 15 18 20]`.

A linear probe of the residual stream at a prompt's last token is fitted on the training pairs and
tested on pairs, forms and categories that it has not seen. Prints its AUROC and the best difference
of true and false positive rate that any threshold gives: what a refusal that follows this probe
could reach as TPR - FPR. The layer is not chosen: all that are named are printed.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jaxdepth
from jaxdepth.probing.capture import residuals
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import HARMFUL, read_prompts

TRAIN, TESTS = "builtin:pairs/train", ("test", "unseen_forms", "unseen")
STRENGTH = 1e-3  # inverse, of the L2 penalty


def main() -> None:
    """Fit, test and print, layer by layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 15, 18, 20, 22, 24, 27, 30])
    args = parser.parse_args()
    model, tokenizer = jaxdepth.load(args.model)
    encoder = PromptEncoder(tokenizer)

    def read(source: str) -> tuple[np.ndarray, np.ndarray]:
        """The residual streams (N, layers, D) of a set's prompts, and which are harmful."""
        prompts = read_prompts([source])
        x_NJD = np.zeros((len(prompts), len(args.layers), model.config.hidden_size), np.float32)
        for batch in make_batches([encoder.encode(p.text) for p in prompts], 32):
            last_B1 = np.asarray(batch.lengths_B)[:, None] - 1
            h_BPJD = residuals(model, batch.tokens_BS, batch.lengths_B, last_B1)
            rows = list(batch.indices)
            x_NJD[rows] = np.asarray(h_BPJD)[: len(rows), 0][:, args.layers]
        return x_NJD, np.array([p.label == HARMFUL for p in prompts])

    x_NJD, harmful_N = read(TRAIN)
    tests = {name: read(f"builtin:pairs/{name}") for name in TESTS}
    print(f"| layer | {' | '.join(f'{name}: AUROC, TPR - FPR' for name in TESTS)} |")
    print(f"|---|{'---|' * len(TESTS)}")
    for j, layer in enumerate(args.layers):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
        probe.fit(x_NJD[:, j], harmful_N)
        cells = []
        for tested_NJD, truth_N in tests.values():
            score_N = probe.decision_function(tested_NJD[:, j])
            false_T, true_T, _ = roc_curve(truth_N, score_N)
            cells.append(f"{roc_auc_score(truth_N, score_N):.3f}, {max(true_T - false_T):+.2f}")
        print(f"| {layer} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
