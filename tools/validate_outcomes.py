"""How right the outcomes of texts are: every measure beside its bar.

    python tools/validate_outcomes.py MODEL --demo runs/demo [--encoder FOLDER]

Reads $JAXDEPTH_DATA: published answers with human labels, and demo-hand-labels.csv, blind labels of
answers of `make demo`, whose texts lie in runs/demo. MODEL is the converted checkpoint of the demo.
Nothing is fitted to what is reported: the detector's features, design and thresholds are chosen
inside the models that are left in (tools/refusal_fit.py), the limits of coherence and the rule of
topic on other prompts (tools/fit_coherence.py, tools/fit_topic.py), and none of them saw the demo.
"""

import argparse
import os
import sys
from pathlib import Path

import fit_coherence
import fit_refusal_detector
import fit_topic
import validate_demo

import jaxdepth
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.encoder import Encoder
from jaxdepth.refusal.reference import Reference


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the converted checkpoint of the demo")
    parser.add_argument("--demo", type=Path, required=True, help="the folder of `make demo`'s runs")
    parser.add_argument("--encoder", help="a sentence encoder")
    arguments = parser.parse_args()
    if not (data := os.environ.get("JAXDEPTH_DATA")):
        sys.exit("JAXDEPTH_DATA is not set: point it at the folder that holds xstest")
    model, tokenizer = jaxdepth.load(arguments.model)
    sentences = Encoder.open(arguments.encoder) if arguments.encoder else None
    reference = Reference(model, PromptEncoder(tokenizer), sentences)

    print("# Refusal\n")
    fit_refusal_detector.measure(Path(data))
    print("\n# Coherence\n")
    print("\n".join(fit_coherence.measure(reference, tokenizer, Path(data))))
    print("\n# Topicality\n")
    print("\n".join(fit_topic.measure(reference, tokenizer, Path(data), arguments.model)))
    print("\n# The demo, read by a person\n")
    texts, left_out = validate_demo.read_labelled(
        arguments.demo, Path(data) / "demo-hand-labels.csv", reference
    )
    print("\n".join(validate_demo.report(texts, left_out)))


if __name__ == "__main__":
    main()
