"""What log-likelihoods at all exits cost, beside passes at full depth, in one process.

    python tools/scoring_cost.py MODEL [--questions 16] [--shots 0] [--batch 16] [--rounds 5]

The requests are those of multiple choice: each question of builtin:facts with its four answers,
after some answered ones. All programs run in turn. `each request alone` passes the context once for
every answer, as lm-eval's own `hf` model does; the others pass it once for all answers.
"""

import argparse
from collections.abc import Callable

from jaxdepth.depth.continuation import continuation_scores
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.checkpoints.knowledge import read_questions
from jaxdepth.study.planning.bench import ALL, FULL, measure
from jaxdepth.weights.load import load

ALONE = "each request alone, full depth"


def main() -> None:
    """Print the time of each program over that of full depth, and over requests alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name, default in (("questions", 16), ("shots", 0), ("batch", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    use_compilation_cache()
    model, tokenizer = load(arguments.model)
    requests = facts_requests(tokenizer.encode, arguments.questions, arguments.shots)
    rows = list(measure(len(requests), 0, _programs(model, requests, arguments), arguments.rounds))
    of_alone = next(row.ratio for row in rows if row.program == ALONE)
    print(f"{len(requests)} requests, {model.depth} exits, vocabulary {model.config.vocab_size:,}")
    print("| program | over full depth (range) | over each request alone |\n|---|---|---|")
    for row in rows:
        print(
            f"| {row.program} | {row.ratio:.2f} ({row.low:.2f}-{row.high:.2f}) | "
            f"{row.ratio / of_alone:.2f} |"
        )


def facts_requests(
    encode: Callable[[str], list[int]], questions: int, shots: int
) -> list[tuple[list[int], list[int]]]:
    """Token ids of (context, answer), as lm-eval makes them of its task `facts`."""
    chosen = read_questions("builtin:facts")
    solved = [f"Question: {q.text}\nAnswer: {q.right}\n\n" for q in chosen[-shots or len(chosen) :]]
    requests = []
    for question in chosen[:questions]:
        context = f"{''.join(solved)}Question: {question.text}\nAnswer:"
        start = encode(context)
        for answer in (question.right, *question.wrong):
            requests.append((start, encode(f"{context} {answer}")[len(start) :]))
    return requests


def _programs(model, requests, arguments) -> dict[str, Callable[[], object]]:
    contexts = list(dict.fromkeys(tuple(context) for context, _ in requests))
    answers = [answer for _, answer in requests]
    shared = contexts, answers, [contexts.index(tuple(context)) for context, _ in requests]
    alone = [context for context, _ in requests], answers, range(len(requests))

    def run(parts, exits):
        return continuation_scores(model, *parts, list(exits), arguments.batch)

    every = range(1, model.depth + 1)
    return {
        FULL: lambda: run(shared, [model.depth]),
        ALL: lambda: run(shared, every),
        ALONE: lambda: run(alone, [model.depth]),
    }


if __name__ == "__main__":
    main()
