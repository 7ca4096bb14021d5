"""The knowledge set `builtin:facts` as a dataset for lm-eval; `task_files/facts.yaml` names it."""

from typing import Any

import datasets

from jaxdepth.study.checkpoints.knowledge import read_questions


def facts_dataset(**kwargs: Any) -> dict[str, datasets.Dataset]:
    """The questions as the split `test`: `question`, `choices`, and the `label` of the right one.

    The right answer's place changes from question to question, so that no order is rewarded.

    Args:
        **kwargs: what lm-eval passes of the task's metadata; not needed.
    """
    rows = []
    for number, question in enumerate(read_questions("builtin:facts")):
        label = number % (len(question.wrong) + 1)
        choices = list(question.wrong)
        choices.insert(label, question.right)
        rows.append(
            {
                "prompt_id": question.prompt_id,
                "category": question.category,
                "question": question.text,
                "choices": choices,
                "label": label,
            }
        )
    return {"test": datasets.Dataset.from_list(rows)}
