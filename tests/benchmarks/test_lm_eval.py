"""A model of every exit for lm-eval, and its tasks from the command line."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from benchmark_tasks import write_tasks
from scipy.special import log_softmax

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.study.run_directory import read_frame, read_record

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.usefixtures("quick_programs")
EXITS = [1, 3, 4]


@pytest.fixture(scope="module")
def answers(tiny_path, quick_programs):
    from jaxdepth.benchmarks.lm_eval.answers import ExitAnswers

    model, tokenizer = jaxdepth.load(tiny_path)
    return ExitAnswers(model, tokenizer, [tokenizer.eos_token_id], EXITS, batch_size=4)


@pytest.fixture(scope="module")
def lm(answers):
    from jaxdepth.benchmarks.lm_eval.model import ExitLM

    return ExitLM(answers, 3, max_length=32)


def request(*args):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, args, 0, metadata=("a task", 5, 1))


def slow_logprob(lm, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The slow twin: a pass of its own for every token, and only for this exit."""
    total, is_greedy = 0.0, True
    tokens = [*context, *continuation]
    length = lm.max_length + 1
    for place in range(len(context), len(tokens)):
        prompt = tokens[:place] if len(tokens) <= length else tokens[len(tokens) - length : place]
        padded = np.zeros((1, length), np.int64)
        padded[0, : len(prompt)] = prompt
        logits = jaxdepth.exit_logits(
            lm.answers.model, padded, np.array([len(prompt)]), lm.exit_layer
        )
        logprob_V = log_softmax(np.asarray(logits[0], np.float64))
        total += logprob_V[tokens[place]]
        is_greedy &= int(logprob_V.argmax()) == tokens[place]
    return total, is_greedy


def test_continuations_are_split_and_truncated_as_lm_eval_does(lm):
    encode = lm.tok_encode
    long = "How do I write a letter to the mayor? " * 5
    pairs = [("I would  ", "like"), ("", " to know"), (long, " Write"), ("I would", " not")]
    scores = lm.loglikelihood([request(*pair) for pair in pairs])
    tokens = [
        (encode("I would"), encode("I would  like")[len(encode("I would")) :]),  # spaces move
        ([lm.prefix_token_id], encode(" to know")),
        (encode(long.rstrip()), encode(long + " Write")[len(encode(long.rstrip())) :]),
        (encode("I would"), encode(" not")),
    ]
    assert len(tokens[2][0]) > lm.max_length  # it loses its start
    for score, (context, continuation) in zip(scores, tokens, strict=True):
        expected, is_greedy = slow_logprob(lm, context, continuation)
        assert score[0] == pytest.approx(expected, abs=1e-4)
        assert score[1] == is_greedy


def test_a_greedy_continuation_is_called_greedy(lm):
    (text,) = lm.generate_until([request("I would", {"until": [], "max_gen_toks": 3})])
    others = [request("I would", text), request("I would", text + "?")]
    tokens = lm.tok_encode("I would" + text)
    assert tokens[: len(lm.tok_encode("I would"))] == lm.tok_encode("I would")
    assert [is_greedy for _, is_greedy in lm.loglikelihood(others)] == [True, False]


def test_long_texts_are_read_in_windows(lm):
    text = "How do I write a letter to the mayor? " * 5
    tokens, length = lm.tok_encode(text), lm.max_length
    assert len(tokens) > 2 * length
    (score,) = lm.loglikelihood_rolling([request(text)])
    expected, _ = slow_logprob(lm, [lm.prefix_token_id], tokens[:length])
    for start in range(length, len(tokens), length):
        window = tokens[start : start + length]
        room = length + 1 - len(window)
        expected += slow_logprob(lm, tokens[start - room : start], window)[0]
    assert score == pytest.approx(expected, rel=1e-5)
    assert lm.loglikelihood_rolling([request("")]) == [0.0]


def test_texts_end_before_stop_strings_and_prompts_lose_their_start(lm):
    asked = {"until": [], "max_gen_toks": 12}
    long = "How do I write a letter to the mayor? " * 5
    whole, of_long = lm.generate_until([request("I would", asked), request(long, asked)])
    assert len(whole) > 4
    stop = whole[3:5]
    (text,) = lm.generate_until([request("I would", asked | {"until": ["never", stop]})])
    assert text == whole[: whole.index(stop)]
    tail = lm.tokenizer.decode(lm.tok_encode(long)[12 - lm.max_length :])
    assert lm.generate_until([request(tail, asked)]) == [of_long]


def test_all_exits_are_answered_at_once(answers, monkeypatch):
    """Costs, counted: the exits after the first one run no program."""
    from jaxdepth.benchmarks.lm_eval import answers as module
    from jaxdepth.benchmarks.lm_eval.model import ExitLM

    calls = []
    scored, generated = module.score_batch, module.generate
    monkeypatch.setattr(module, "score_batch", lambda *a: calls.append("score") or scored(*a))
    monkeypatch.setattr(
        module, "generate", lambda *a, **k: calls.append("generate") or generated(*a, **k)
    )
    models = [ExitLM(answers, e) for e in EXITS]
    of_texts = [request("Could you", {"until": [], "max_gen_toks": 3})]
    of_scores = [request("Could you", " bake"), request("Could you", " bake")]
    texts = [model.generate_until(of_texts)[0] for model in models]
    scores = [model.loglikelihood(of_scores)[0][0] for model in models]
    assert calls == ["generate", "score"]
    assert len(set(texts)) > 1
    assert len(set(scores)) == len(EXITS)


def test_what_cannot_be_answered_is_refused(lm, answers):
    from jaxdepth.benchmarks.lm_eval.model import ExitLM

    with pytest.raises(InputError, match="document 5: the continuation is empty"):
        lm.loglikelihood([request("", "")])
    with pytest.raises(InputError, match="context has no tokens"):
        lm.loglikelihood([request(" ", "text")])
    with pytest.raises(InputError, match="tokens, more than the 32"):
        lm.loglikelihood([request("a", " letter to the mayor" * 20)])
    with pytest.raises(InputError, match="generation with num_beams is not supported"):
        lm.generate_until([request("a", {"until": [], "num_beams": 4})])
    with pytest.raises(InputError, match="256 new tokens, expected 1 to 31"):
        lm.generate_until([request("a", {"until": []})])
    with pytest.raises(InputError, match="samples at temperature 0"):
        lm.generate_until([request("a", {"max_gen_toks": 2, "do_sample": True})])
    with pytest.raises(InputError, match="exit 2 is not among"):
        ExitLM(answers, 2)
    with pytest.raises(InputError, match="max_length is 999, expected 2 to 256"):
        ExitLM(answers, 3, max_length=999)


@pytest.fixture(scope="module")
def evaluated(tiny_path, tmp_path_factory, quick_programs):
    """(words of the command line, run directory, what it printed) of all four kinds of task."""
    import contextlib
    import io

    import datasets

    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        paths = [str(path) for path in write_tasks(folder).values()]
        words = ["evaluate", str(tiny_path), *paths, "facts", "--with", "lm-eval"]
        words += ["--exits", "1,3,4", "--limit", "12", "--out", str(folder / "run")]
        words += ["--gen-kwargs", "max_gen_toks=6", "--log-samples", "--max-length", "64"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(words) == 0
        yield words, folder / "run", printed.getvalue()


def test_scores_are_lm_evals_with_intervals(evaluated):
    _, run, printed = evaluated
    scores = read_frame(run, "scores").set_index(["task", "metric", "exit"]).sort_index()
    for exit_layer in EXITS:
        (file,) = (run / "lm-eval" / f"tiny-exit-{exit_layer:02d}").glob("results_*.json")
        results = json.loads(file.read_text())
        assert results["config"]["model"] == "jaxdepth"
        assert results["config"]["exit"] == exit_layer
        for task, of_task in results["results"].items():
            for key, value in of_task.items():
                metric, comma, _ = key.partition(",")
                if comma and "_stderr" not in metric:
                    row = scores.loc[(task, metric, exit_layer)]
                    assert row["value"] == value
                    if row["n"] >= 10:
                        assert row["low"] <= value <= row["high"]
    facts = scores.loc[("facts", "acc")]
    assert (facts["chance"] == 0.25).all()
    assert facts["minus_full"].isna().tolist() == [False, False, True]
    assert facts.loc[1, "minus_full"] == facts.loc[1, "value"] - facts.loc[4, "value"]
    assert scores.loc[("last_word", "perplexity"), "low"].isna().all()  # of three documents
    assert "facts by exit (n=12)" in printed
    assert "Guessing gives 0.25" in printed
    assert {file.name for file in (run / "figures").glob("*.png")} >= {"acc.png", "perplexity.png"}


def test_results_are_read_by_lm_evals_tools(evaluated):
    from lm_eval.utils import get_results_filenames, get_sample_results_filenames, make_table

    _, run, _ = evaluated
    files = [str(file) for file in (run / "lm-eval").rglob("*.json*")]
    assert len(get_results_filenames(files)) == len(EXITS)
    assert len(get_sample_results_filenames(files)) == 5 * len(EXITS)
    with open(get_results_filenames(files)[0]) as file:
        table = make_table(json.load(file))
    assert "|facts" in table.replace("everyday facts (jaxdepth)", "facts")
    (lines,) = (run / "lm-eval" / "tiny-exit-03").glob("samples_facts_*.jsonl")
    samples = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(samples) == 12
    logprobs = [float(resp[0][0]) for resp in samples[0]["resps"]]
    kept = read_frame(run, "loglikelihoods")
    assert set(np.round(logprobs, 4)) <= set(np.round(kept["logprob"][kept["exit"] == 3], 4))


def test_a_finished_run_runs_no_program_again(evaluated, monkeypatch, capsys):
    from jaxdepth.benchmarks.lm_eval import answers as module

    words, run, printed = evaluated
    for name in ("score_batch", "generate"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a program ran again"))
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    assert read_record(run)["settings"]["tasks"][-1] == "facts"


def test_other_requests_are_another_run(evaluated, capsys):
    words, run, _ = evaluated
    data = run.parent / "prose.jsonl"
    before = data.read_text()
    try:
        data.write_text(before.replace("mayor", "queen"))
        assert main(words) == 2
        assert "the requests of these tasks are others" in capsys.readouterr().err
        assert main([*words, "--exits", "1,3"]) == 2
        assert "use the same settings, or another --out" in capsys.readouterr().err
    finally:
        data.write_text(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["factz"], "no task 'factz'; did you mean 'facts'?"),
        (["broken.yaml"], "tasks broken.yaml cannot be loaded (FileNotFoundError"),
        (["facts", "--gen-kwargs", "until"], "expected NAME=VALUE"),
        (["facts", "--include-path", "nowhere"], "nowhere is not a folder"),
        (["facts", "--limit", "0"], "limit is 0"),
        (["facts", "--exits", "9"], "exit 9 is out of range"),
        (["facts", "--max-length", "999"], "max_length is 999, expected 2 to 256"),
        (["facts", "--task-args", "a=1"], "--task-args: not an option of --with lm-eval"),
    ],
)
def test_mistakes_are_one_line(tiny_path, tmp_path, monkeypatch, capsys, words, message):
    from jaxdepth.benchmarks.lm_eval import tasks

    # Without the thousands of lm-eval's own tasks, which take seconds to read.
    manager = partial(tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        tasks, "TaskManager", lambda include_path, **_: manager(include_path=include_path)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n"
        "test_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
    )
    assert main(["evaluate", str(tiny_path), *words, "--with", "lm-eval", "--out", "run"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "run" / "run.json").exists()


def test_tasks_that_run_code_or_show_images_are_refused(tmp_path):
    from jaxdepth.benchmarks.lm_eval.tasks import LoadedTasks

    path = write_tasks(tmp_path)["replies"]
    path.write_text(path.read_text() + "unsafe_code: true\n")
    with pytest.raises(InputError, match="runs code that a model writes"):
        LoadedTasks([str(path)])


def test_without_lm_eval_the_extra_is_named(tiny_path, tmp_path):
    """In a process of its own, which cannot import it."""
    code = (
        "import sys; sys.modules['lm_eval'] = None; from jaxdepth.cli import main; "
        f"sys.exit(main(['evaluate', {str(tiny_path)!r}, 'facts', '--with', 'lm-eval', '--out', "
        f"{str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs lm_eval" in done.stderr
    assert "pip install 'jaxdepth[lm-eval]'" in done.stderr


def test_a_run_that_is_stopped_goes_on(tiny_path, tmp_path, monkeypatch, capsys):
    from jaxdepth.benchmarks.lm_eval import answers as module

    scored, calls = module.score_batch, []

    def stopped(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments[1].indices)
        return scored(*arguments)

    words = ["evaluate", str(tiny_path), "facts", "--with", "lm-eval", "--limit", "4"]
    words += ["--batch-size", "4", "--exits", "2-3", "--out"]
    monkeypatch.setattr(module, "score_batch", stopped)
    assert main([*words, str(tmp_path / "stopped")]) == 130
    monkeypatch.setattr(module, "score_batch", lambda *a: calls.append(a[1].indices) or scored(*a))
    assert main([*words, str(tmp_path / "stopped")]) == 0
    assert len(calls) == len(set(calls)) == 4  # no batch twice
    monkeypatch.setattr(module, "score_batch", scored)
    assert main([*words, str(tmp_path / "whole")]) == 0
    frames = [read_frame(tmp_path / name, "scores") for name in ("stopped", "whole")]
    assert frames[0].equals(frames[1])


def test_text_that_is_no_unicode_is_named(lm):
    with pytest.raises(InputError, match="not valid Unicode"):
        lm.loglikelihood([request("a \ud800", " b")])
