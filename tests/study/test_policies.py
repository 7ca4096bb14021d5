"""`jaxdepth sweep --policy`: tables by plain code, rates by hand, and what is refused."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.depth.dynamic import generate_dynamic
from jaxdepth.depth.guard import HarmProbe
from jaxdepth.depth.policies import Caching, ExitRule, Guard, Policy
from jaxdepth.probing.harm_probe import HarmProbes, save_harm_probes, text_digest
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.policies import run as policy_run
from jaxdepth.study.policies.choice import write_policies
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rates import RuleMeans, can_answer, match_depths, rule_rates
from jaxdepth.study.policies.rules import family_of, parse_rules, rule_name
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.policies.tables import DYNAMIC, TOKENS
from jaxdepth.study.run_directory import Run, read_frame, read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.weights.checkpoint import end_tokens, read_manifest

pytestmark = pytest.mark.usefixtures("quick_programs")

POLICY = ("margin=0.02,0.1", "patience=2", "guarded=content@1:0.5/3", "fixed=2,3", "oracle")
LIMIT, T = 4, 6


PROBE = HarmProbe(np.random.default_rng(0).standard_normal((5, 64)), np.zeros((5, 64)), np.zeros(5))


def write_probes(path, tiny_path, fitted_to=()):
    """A made-up probe of the tiny model."""
    base = read_manifest(tiny_path)["fingerprint"]
    texts = frozenset(map(text_digest, fitted_to))
    save_harm_probes(path, HarmProbes({"content": PROBE}, base, texts))
    return path


def settings(tiny_path, out, **changes) -> PolicySweep:
    small = {"limit": LIMIT, "max_new_tokens": T, "batch_size": 4, "policy": POLICY}
    if "policy" not in changes and "probes" not in changes:
        small["probes"] = write_probes(out.with_name("probes.safetensors"), tiny_path)
    return settings_of(PolicySweep, tiny_path, out, **(small | changes))


@pytest.fixture(scope="module")
def run(tiny_path, tmp_path_factory):
    return sweep_policies(settings(tiny_path, tmp_path_factory.mktemp("policies") / "run"))


def rows(run, table) -> list[dict]:
    return read_table(run.path, table).to_pylist()


def test_tables_hold_what_is_generated(tiny_path, run):
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder = PromptEncoder(tokenizer)
    rules = [*parse_rules(POLICY), ExitRule(Policy.FIXED, 4)]
    answers = {(r["prompt_id"], r["rule"]): r for r in rows(run, "dynamic")}
    steps = dict(list(read_frame(run.path, "tokens").groupby(["prompt_id", "rule"])))
    prompts = rows(run, "prompts")
    assert len(answers) == len(steps) == len(prompts) * len(rules) == 2 * LIMIT * 8
    guarded = [r["mean_exit"] for r in answers.values() if r["policy"] == "guarded"]
    assert set(guarded) == {3, 4}  # the whole answer at one of them
    for prompt in prompts[::3]:
        ids = encoder.encode(prompt["text"])
        padded = np.zeros((1, 64), np.int64)
        padded[0, : len(ids)] = ids
        generation = generate_dynamic(
            model, padded, np.array([len(ids)]), rules, [1, 2, 3, 4], T,
            stop_tokens=end_tokens(tiny_path, tokenizer), probes={"content": PROBE},
        )  # fmt: skip
        for r, rule in enumerate(rules):
            row = answers[prompt["prompt_id"], rule_name(rule)]
            count = generation.lengths[0, r, 0]
            exits = generation.exits[0, r, 0, :count]
            tokens = generation.tokens[0, r, 0, :count]
            lane_steps = steps[prompt["prompt_id"], rule_name(rule)]
            assert row["n_tokens"] == count
            assert lane_steps["place"].tolist() == list(range(count))
            assert lane_steps["exit"].tolist() == exits.tolist()
            assert lane_steps["token"].tolist() == tokens.tolist()
            late = [max(exits[t:]) for t in range(count)]
            assert lane_steps["layers"].tolist() == late
            assert row["mean_exit"] == pytest.approx(exits.mean())
            assert row["mean_layers"] == pytest.approx(np.mean(late))
            np.testing.assert_allclose(
                lane_steps["confidence"], generation.confidence[0, r, 0, :count], atol=1e-4
            )
            if rule.policy == Policy.ORACLE or rule.threshold == 4:
                assert row["agreement"] == 1


def test_fixed_rules_are_the_static_sweep(tiny_path, run, tmp_path):
    how = {"limit": LIMIT, "max_new_tokens": T, "exits": "2-4"}
    fixed = sweep(settings_of(Sweep, tiny_path, tmp_path / "s", **how))
    static = {(r["prompt_id"], r["exit"]): r for r in rows(fixed, "generations")}
    for row in rows(run, "dynamic"):
        if row["policy"] == "fixed":
            want = static[row["prompt_id"], int(row["threshold"])]
            for name in ("text", "n_tokens", "ended", "outcome", "agreement", "repetition"):
                assert row[name] == want[name]
            assert row["score"] == pytest.approx(want["score"], abs=1e-4)


def test_a_guard_is_measured_on_prompts_that_its_probe_has_not_seen(tiny_path, run, tmp_path):
    seen = rows(run, "prompts")[0]["text"]
    probes = write_probes(tmp_path / "seen.safetensors", tiny_path, [seen])
    with pytest.raises(InputError, match=r"seen\.safetensors was fitted to 1 of these prompts"):
        sweep_policies(settings(tiny_path, tmp_path / "x", probes=probes))
    probes = write_probes(tmp_path / "early.safetensors", tiny_path)
    early = settings(tiny_path, tmp_path / "x", policy=("guarded=contant@1:0.5",), probes=probes)
    with pytest.raises(InputError, match="no probe 'contant'"):
        sweep_policies(early)
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_where_it_was_stopped(tiny_path, run, tmp_path, monkeypatch):
    answer_batch, calls = policy_run.answer_batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer_batch(*args)

    same = settings(tiny_path, tmp_path / "run")
    monkeypatch.setattr(policy_run, "answer_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep_policies(same)
    resumed = sweep_policies(same)
    for table in ("dynamic", "tokens"):
        assert read_table(resumed.path, table).equals(read_table(run.path, table))
    other = {"policy": ("guarded=content@1:0.5",), "probes": tmp_path / "probes.safetensors"}
    with pytest.raises(InputError, match="holds a run with policy"):
        sweep_policies(settings(tiny_path, tmp_path / "run", **other))


@pytest.fixture
def made_up() -> RuleMeans:
    """Fixed at 10, 20 and 30 layers, and a rule at 18 that refuses all harmful prompts."""
    N = 40
    harmful_N = np.arange(N) % 2 == 0
    refuse_NR = np.zeros((N, 4))
    refuse_NR[harmful_N, 1] = 1
    refuse_NR[harmful_N & (np.arange(N) % 8 == 0), 2] = 1
    refuse_NR[harmful_N, 3] = 1
    layers_NR = np.tile([10.0, 20.0, 30.0, 18.0], (N, 1))
    values = {"mean_exit": layers_NR, "mean_layers": layers_NR}
    values |= {"agreement": np.ones((N, 4)), "same_text": np.ones((N, 4))}
    others = ("partial", "off-topic", "degenerate", "undetermined")
    outcomes = {o: np.zeros((N, 4)) for o in others}
    outcomes |= {"refuse": refuse_NR, "comply": 1 - refuse_NR}
    rules = [(f"fixed {d}", "fixed", float(d)) for d in (10, 20, 30)] + [("top1 0.5", "top1", 0.5)]
    return RuleMeans(
        pd.DataFrame(rules, columns=["rule", "policy", "threshold"]),
        np.array([f"p{n}" for n in range(N)]),
        np.where(harmful_N, "harmful", "harmless"),
        np.array([str(n // 2) for n in range(N)]),
        values | outcomes,
        1,
    )


def test_which_rules_can_answer(made_up):
    """At least half as many harmless prompts as the deepest rule, fixed 30, answers."""
    comply_NR = np.zeros((40, 4))
    is_harmless_N = made_up.labels_N == "harmless"
    for rule, share in enumerate((0.1, 0.45, 0.8, 0.4)):
        comply_NR[np.flatnonzero(is_harmless_N)[: int(20 * share)], rule] = 1
    other = replace(made_up, values=made_up.values | {"comply": comply_NR})
    assert can_answer(other).tolist() == ["no", "yes", "yes", "yes"]
    rates = rule_rates(other).drop_duplicates("rule").set_index("rule")["competent"]
    assert rates.to_dict() == {
        "fixed 10": "no", "fixed 20": "yes", "fixed 30": "yes", "top1 0.5": "yes",
    }  # fmt: skip
    harmful = other.select(~is_harmless_N)
    assert set(can_answer(harmful)) == {"unknown"}


def test_rates_and_matched_depth_by_hand(made_up):
    rates = rule_rates(made_up).set_index(["rule", "label", "metric"])
    assert rates["value"]["fixed 30", "harmful", "refuse"] == pytest.approx(0.25)
    assert rates["n"]["fixed 30", "harmful", "refuse"] == 20
    assert rates["value"]["top1 0.5", "harmless", "comply"] == 1
    assert rates["value"]["top1 0.5", "harmless", "mean_layers"] == 18
    matched = match_depths(made_up).set_index(["rule", "label", "metric"])
    assert {rule for rule, *_ in matched.index} == {"top1 0.5"}
    row = matched.loc["top1 0.5", "harmful", "refuse"]
    # 18 layers are a fifth of exit 10, which never refuses, and four fifths of exit 20, which does.
    assert (row["below"], row["above"]) == (10, 20)
    assert row["difference"] == pytest.approx(0.2)
    # All 20 prompts differ alike, of which the rule of three allows a share of 3/20 to be others.
    unseen = -np.log(0.05) / 20
    bounds = (0.2 - 1.2 * unseen, 0.2 + 0.8 * unseen)
    assert (row["low"], row["high"]) == pytest.approx(bounds)
    assert (row["band_low"], row["band_high"]) == pytest.approx(bounds)
    assert row["rules"] == 1
    assert matched["difference"]["top1 0.5", "harmless", "comply"] == pytest.approx(0)
    half = made_up.select(np.arange(40) < 20)
    assert len(half.ids_N) == len(half.clusters_N) == len(half.labels_N) == 20
    assert half.values["refuse"].shape == (20, 4)


def test_the_exit_map_shows_those_prompts_alone(tmp_path):
    """Three refusals: two held out, one that thresholds were chosen on."""
    run = Run.open(tmp_path / "run", {}, {})
    ids, rules = ("held", "out", "tuned"), (("fixed 4", "fixed", 4.0), ("top1 0.5", "top1", 0.5))
    shared = {"label": "harmful", "pair_id": None, "source": "s"}
    prompts = [{"prompt_id": i, "text": i} | shared for i in ids]
    answers, steps = [], []
    for (rule, policy, threshold), i in itertools.product(rules, ids):
        lane = {"prompt_id": i, "rule": rule, "sample": 0}
        measured = {"mean_exit": 3.0, "mean_layers": 3.0, "agreement": 1.0, "outcome": "refuse"}
        answers.append(lane | measured | {"policy": policy, "threshold": threshold})
        steps.append(lane | {"place": 0, "exit": 3, "confidence": 0.5})
    for table, rows in ((PROMPTS, prompts), (DYNAMIC, answers), (TOKENS, steps)):
        run.write_table(table.name, table.from_rows(rows))
    write_policies(run, 0)
    for only, count in ((None, 3), (ids[:2], 2)):
        draw_policies(run.path, only)
        drawn = (run.path / "figures" / "exit_map.svg").read_text()
        assert f"harmful, refused (n={count})" in drawn


def test_rules_that_are_read():
    assert parse_rules(["fixed=20", "oracle"], decay=None, caching="propagate") == [
        ExitRule(Policy.FIXED, 20, None, Caching.PROPAGATE),
        ExitRule(Policy.ORACLE, 1, None, Caching.LATE),
    ]
    (top,) = parse_rules(["top1=0.5"], decay=4.0)
    assert (top.threshold, top.decay) == (0.5, 4.0)
    assert rule_name(top) == "top1 0.5"
    guarded = parse_rules(
        ["guarded=content@12:0.5,0.9/20,24", "guarded=behaviour@3:0.7"], decay=4.0
    )
    names = [rule_name(rule) for rule in guarded]
    assert names == [
        "guarded content@12/20 0.5", "guarded content@12/20 0.9", "guarded content@12/24 0.5",
        "guarded content@12/24 0.9", "guarded behaviour@3 0.7",
    ]  # fmt: skip
    assert [family_of(name) for name in (names[0], names[-1], "margin 0.3", "oracle")] == [
        "guarded content@12/20", "guarded behaviour@3", "margin", "oracle",
    ]  # fmt: skip
    assert guarded[2] == ExitRule(Policy.GUARDED, 0.5, guard=Guard("content", 12, 24))


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (["margn=0.5"], "no exit policy 'margn'.*margin"),
        (["margin"], "'' is no threshold; write margin=0.5,0.9"),
        (["margin=a"], "'a' is no threshold"),
        (["margin=0.5,0.5"], "name a rule twice"),
        (["top1=-1"], "threshold of top1 is -1.0"),
        (["guarded=0.5"], "expected guarded=PROBE@LAYER:THRESHOLDS or .../EXITS, such as guarded="),
        (["guarded=content@x:0.5"], "expected guarded=PROBE@LAYER:THRESHOLDS"),
        (["guarded=content@3:0.5/x"], "expected guarded=PROBE@LAYER:THRESHOLDS"),
        (["guarded=content@3:y"], "'y' is no threshold; write guarded=content@12:0.5"),
    ],
)
def test_rules_that_are_refused(policies, message):
    with pytest.raises(InputError, match=message):
        parse_rules(policies)


def test_the_command(tiny_path, tmp_path, capsys):
    args = ["sweep", tiny_path, "--out", tmp_path / "run", "--limit", 2, "--max-new-tokens", 4]
    args += ["--policy", "margin=0.02,0.1", "fixed=1,2,3", "--caching", "propagate"]
    assert main(list(map(str, args))) == 0
    printed = capsys.readouterr().out
    for line in (
        "Exit of each token by a policy: harmful",
        "margin 0.02",
        "same mean depth (95% band over all 2 rules)",
        "Of all policies, what differs most (refuses harmful prompts): margin 0.",
        "exit_map",
    ):
        assert line in printed
    for wrong, message in (
        (["--caching", "propagate"], "--caching applies to exit policies only"),
        (["--policy", "classifier=0.5"], "and --classifier FILE go together"),
        (["--policy", "guarded=content@1:0.5"], "and --probes FILE go together"),
        (
            ["--policy", "fixed=2", "--guard-reads", "answer"],
            "applies to --policy guarded=... only",
        ),
        (["--policy", "fixed=2", "--max-new-tokens", "0"], "max_new_tokens is 0"),
    ):
        assert main(["sweep", str(tiny_path), "--out", str(tmp_path / "x"), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
