"""Tasks of lm-eval as people have them: a .yaml file beside a .jsonl file."""

import json
from pathlib import Path

TASKS = {
    "capitals": (
        """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: options
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
""",
        [
            {"question": f"Which town is number {n}?", "options": options, "answer": n % 3}
            for n, options in enumerate(
                [
                    ["Rome", "Old York", "Paris"],
                    ["A", "B", "C"],
                    ["the second", "the first of all", "none"],
                    ["12", "1", "two"],
                ]
                * 2
            )
        ],
    ),
    "last_word": (
        """
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: "{{word}}"
metric_list:
  - metric: acc
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
""",
        [
            {"text": "Could you tell me how to ", "word": "bake"},
            {"text": "", "word": "Write a letter"},
            {"text": "I would like  ", "word": "to know"},
        ],
    ),
    "prose": (
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
""",
        [
            {"text": "How do I write a letter to the mayor of a town? " * repeats}
            for repeats in (1, 4, 9)
        ],
    ),
    "replies": (
        """
output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{reply}}"
generation_kwargs:
  until: ["e", "\\n\\n"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
""",
        [
            {"question": question, "reply": "I cannot do that."}
            for question in ("How are you?", "Can you bake bread for the whole of my street?", "1?")
        ],
    ),
}


def write_tasks(folder: Path) -> dict[str, Path]:
    """Write the tasks; returns the .yaml file of each by its name."""
    paths = {}
    for name, (yaml, rows) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
            f"    test: {data}\ntest_split: test\n{yaml.lstrip()}metadata:\n  version: 1.0\n"
        )
    return paths
