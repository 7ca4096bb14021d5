"""System prompts and given starts of replies; the map of exits and prefill lengths."""

import json
import shutil

import numpy as np
import pytest
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.prompts.prompt import Message, Prompt
from jaxdepth.runtime.progress import silent
from jaxdepth.study.judging.kept import read_answers
from jaxdepth.study.labelling import answers as labelling
from jaxdepth.study.labelling.run import find_runs
from jaxdepth.study.prefills.run import sweep_prefills, with_prefill
from jaxdepth.study.prefills.settings import parse_lengths
from jaxdepth.study.prompting.sets import read_prompts_of, read_study_prompts, system_text
from jaxdepth.study.run_directory import read_frame, read_record, read_table
from jaxdepth.study.settings import Prompts
from jaxdepth.study.subject import open_subject
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.weights.checkpoint import end_tokens

pytestmark = pytest.mark.usefixtures("quick_programs")

T, LENGTHS = 4, (0, 1, 5)
SYSTEM, OPENING = "Be brief.", "Sure, here is what you asked for:"
SMALL = {"limit": 2, "batch_size": 4, "max_new_tokens": T, "exits": "2,4"}
GIVEN = {**SMALL, "system": SYSTEM, "prefill": OPENING}
SEEN: list[tuple[str, str]] = []


def judge(texts, prompts):
    """A judge that remembers what it read."""
    SEEN.extend(zip(prompts, texts, strict=True))
    return ["comply" if len(text) % 2 else "refuse" for text in texts]


judge.identity = "by length"


@pytest.fixture(scope="module")
def run(tiny_path, tmp_path_factory):
    settings = settings_of(Sweep, tiny_path, tmp_path_factory.mktemp("prefills") / "run", **GIVEN)
    return sweep_prefills(settings, LENGTHS, judge=judge)


@pytest.fixture(scope="module")
def model(tiny_path):
    model, tokenizer = jaxdepth.load(tiny_path)
    conversations = ConversationEncoder(tokenizer, PromptEncoder(tokenizer))
    return model, tokenizer, conversations, end_tokens(tiny_path, tokenizer)


def test_every_answer_one_prompt_and_length_at_a_time(run, model):
    model, tokenizer, conversations, stops = model
    prompts = read_prompts_of(run.path)
    assert {(p.system, p.prefill) for p in prompts.values()} == {(SYSTEM, OPENING)}
    for length in LENGTHS:
        path = run.path / f"prefill-{length}"
        rows = read_table(path, "generations").to_pylist()
        assert len(rows) == len(prompts) * 2
        for row in rows:
            prompt = prompts[row["prompt_id"]]
            messages = [Message("system", SYSTEM), Message("user", prompt.text)]
            written = conversations.write(messages, OPENING)
            tokens = written.ids[: len(written.ids) - len(written.prefill_ends) + length]
            if not length:
                assert tokens == conversations.encode(messages)
            ids = np.zeros((1, 96), np.int64)
            ids[0, : len(tokens)] = tokens
            at = np.array([len(tokens)])
            made = jaxdepth.generate(model, ids, at, [row["exit"]], T, stop_tokens=stops)
            answer = made.tokens[0, 0, : made.lengths[0, 0]].tolist()
            text = tokenizer.decode(answer, skip_special_tokens=True)
            given = read_prompts_of(path)[row["prompt_id"]].prefill or ""
            assert (row["text"], row["n_tokens"]) == (text, len(answer))
            assert OPENING.startswith(given)
            assert tokenizer.decode(tokens).endswith(given)
            # Judges read the whole reply, and so do those who judge or label the run later.
            assert (prompt.text, given + text) in SEEN
            for kept in (read_answers(path), labelling.read_answers(path)):
                row_of = (kept["prompt_id"] == row["prompt_id"]) & (kept["exit"] == row["exit"])
                assert kept[row_of]["text"].tolist() == [given + text]


def test_the_map_is_of_the_sweeps_of_all_lengths(run):
    frame = read_frame(run.path, "prefill_map")
    assert frame["prefill_tokens"].unique().tolist() == list(LENGTHS)
    for length in LENGTHS:
        curve = read_frame(run.path / f"prefill-{length}", "curve")
        curve = curve[curve["exit"].notna()]
        rows = frame[frame["prefill_tokens"] == length]
        for column in ("metric", "label", "exit", "value"):
            assert rows[column].tolist() == curve[column].tolist()
    assert set(frame["competent"]) == {"unknown"}  # two prompts of each label
    settings = read_record(run.path)["settings"]
    assert settings["prefill_tokens"] == list(LENGTHS)
    assert (settings["system"], settings["prefill"]) == (SYSTEM, OPENING)


def test_prompts_of_all_lengths_have_one_shape(tiny_path, run):
    settings = settings_of(Sweep, tiny_path, run.path, **GIVEN)
    whole = open_subject(settings, "2")
    shapes = set()
    for length in LENGTHS[1:]:
        part = with_prefill(whole, settings, length, max(LENGTHS))
        shapes.add(tuple(b.tokens_BS.shape for b in part.batches(part.prompt_ids(), T)))
    assert len(shapes) == 1


def test_a_length_that_is_missing_is_made_again(tiny_path, run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    shutil.rmtree(path / "prefill-5")
    made = []

    def bar(what, unit):
        made.append(what)
        return silent(what, unit)

    settings = settings_of(Sweep, tiny_path, path, **GIVEN)
    sweep_prefills(settings, LENGTHS, bar, judge)
    assert {what.split(":")[0] for what in made} == {"prefill of 5"}
    for name in ("first_token", "generations"):
        again = read_table(path / "prefill-5", name)
        assert again == read_table(run.path / "prefill-5", name)
    with pytest.raises(InputError, match="holds a run with prefill_tokens = "):
        sweep_prefills(settings, (0, 1), judge=judge)
    changed = settings_of(Sweep, tiny_path, path, **{**GIVEN, "system": "Be long."})
    with pytest.raises(InputError, match=r'holds a run with system = "Be brief\.", not "Be long'):
        sweep_prefills(changed, LENGTHS, judge=judge)


def test_the_command_and_its_figure(tiny_path, tmp_path, capsys):
    (tmp_path / "system.txt").write_text("Be brief.\n")
    out = tmp_path / "run"
    words = ["sweep", tiny_path, "--out", out, "--limit", 2, "--exits", "2,4", "--prefill", OPENING]
    words += ["--max-new-tokens", 0, "--system", tmp_path / "system.txt"]
    words = list(map(str, words))
    assert main([*words, "--prefill-tokens", "0,5"]) == 0
    printed = capsys.readouterr().out
    assert "refusal log-odds of the next token (nats), by prefill" in " ".join(printed.split())
    assert (out / "figures" / "prefill_map_harmful.png").stat().st_size > 5000
    assert find_runs([out]) == [out / "prefill-0", out / "prefill-5"]
    record = json.loads((out / "prefill-5" / "run.json").read_text())["settings"]
    assert (record["system"], record["prefill_tokens"]) == ("Be brief.", 5)
    assert [name for name in record["openers"] if name.startswith(" ")]
    for more, says in (
        (["0,60"], "has a prefill of"),
        (["5,0,5"], "stands there twice"),
        (["-1"], "expected numbers such as 0,5,10,25"),
        (["0,5", "--policy", "fixed=2"], "--prefill-tokens is of static exits"),
        (["0,5", "--prefill", ""], "has no prefill, and 5 are asked for"),
    ):
        assert main([*words, "--out", str(tmp_path / "other"), "--prefill-tokens", *more]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_lengths():
    assert parse_lengths("25, 0,5") == [0, 5, 25]


def test_system_prompts_from_files_and_texts(tmp_path, monkeypatch):
    (tmp_path / "s.txt").write_bytes("\ufeffSay “yes”.\r\nOr no.\r\n".encode())
    assert system_text(str(tmp_path / "s.txt")) == "Say “yes”.\nOr no."
    assert system_text("Be brief.") == "Be brief."
    assert system_text("Brief!") == "Brief!"
    assert system_text("") == ""
    assert system_text(None) is None
    assert system_text("word " * 9000) == "word " * 9000
    for missing in ("t.txt", "folder/name", str(tmp_path / "none")):
        with pytest.raises(InputError, match="there is no such file"):
            system_text(missing)


def test_prompts_keep_what_they_bring(monkeypatch):
    own = Prompt("a", "x", None, None, None, "f", system="Mine.", prefill="Yes")
    plain = Prompt("b", "x", None, None, None, "f")
    monkeypatch.setattr(
        "jaxdepth.study.prompting.sets.read_prompts", lambda *names, **columns: [own, plain]
    )
    read = read_study_prompts(Prompts(system="All.", prefill="No"))
    assert [(p.system, p.prefill) for p in read] == [("Mine.", "Yes"), ("All.", "No")]


def test_conversations_of_a_file_reach_the_model_whole(tiny_path, tmp_path, model):
    said = [("user", "Hello"), ("assistant", "Hi"), ("user", "How are you?")]
    messages = [{"role": role, "content": text} for role, text in said]
    given = [{"role": "system", "content": "Be kind."}, *messages]
    rows = [
        {"id": 1, "messages": given, "prefill": "I am"},
        {"id": 2, "messages": messages},
        {"id": 3, "messages": messages[:1]},
    ]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = settings_of(
        Sweep, tiny_path, tmp_path / "run", prompts=(str(tmp_path / "talk.jsonl"),), system=SYSTEM
    )
    subject = open_subject(settings, "4")
    tokenizer = model[1]
    for row, tokens in zip(rows, subject.prompt_ids(), strict=True):
        raw = [m for m in row["messages"] if m["role"] != "system"]
        system = "Be kind." if row["id"] == 1 else SYSTEM
        raw = [{"role": "system", "content": system}, *raw]
        goes_on = "prefill" in row
        raw += [{"role": "assistant", "content": row["prefill"]}] if goes_on else []
        text = tokenizer.apply_chat_template(
            raw, tokenize=False, continue_final_message=goes_on, add_generation_prompt=not goes_on
        )
        assert tokens == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_earlier_turns_are_written_out_for_judges():
    earlier = (Message("user", "Hello"), Message("assistant", "Hi"))
    prompt = Prompt("a", "Go on", None, None, None, "f", "Be brief.", earlier, "Sure")
    assert prompt.asked == "user: Hello\n\nassistant: Hi\n\nuser: Go on"
    assert prompt.reply(", yes") == "Sure, yes"
    assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "user"]


def test_decide_and_tune_refuse_what_they_cannot_use(tiny_path, tmp_path, capsys):
    words = [str(tiny_path), "--out", str(tmp_path / "run"), "--limit", "2", "--prefill", "Sure"]
    assert main(["decide", *words]) == 2
    assert "has the start of a reply (a prefill), and under a protocol" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_is_too_long_is_named_before_any_work(tiny_path, tmp_path):
    (tmp_path / "asked.txt").write_text("Fine.\n" * 6 + "word " * 300 + "\nFine.\n")
    changes = {"prompts": (f"harmless={tmp_path / 'asked.txt'}",), "max_new_tokens": 0}
    with pytest.raises(InputError, match=r"prompt asked-0007 of asked\.txt has \d+ tokens"):
        sweep(settings_of(Sweep, tiny_path, tmp_path / "run", **changes))


def test_a_prompt_that_just_fits_is_answered(tiny_path, tmp_path):
    """Its padding would be longer than the model allows."""
    subject = open_subject(settings_of(Sweep, tiny_path, tmp_path / "run", limit=1), "4")
    limit = subject.model.config.max_position_embeddings
    ids = [[1] * (limit - T), [1] * 3]
    lengths = sorted(b.tokens_BS.shape[1] for b in subject.batches(ids, T))
    assert lengths == [16, limit - T]
