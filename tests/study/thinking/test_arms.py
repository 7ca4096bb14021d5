"""Arms compared: numbers of made-up verdicts by plain code, plans, and what is said of them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jaxdepth import InputError
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.ranking import recalls_at_fpr, tpr_at_fpr
from jaxdepth.study.thinking.arms import ARMS, Unit, plan_units
from jaxdepth.study.thinking.compared import ALL, LOOKALIKES, ArmVerdicts, Decisions, Replicate
from jaxdepth.study.thinking.probe import choose, cross_validate
from jaxdepth.study.thinking.rows import Side, balanced_gain, contrast_rows, metric_rows
from jaxdepth.study.thinking.settings import Arms
from jaxdepth.study.thinking.wanted import expectations, judge_wanted

PAIRS = 12


def replicate(log_odds_NE, **sources) -> Replicate:
    """A seed whose verdict is caution where the log-odds are above 0."""
    all_sources = {"verdict": log_odds_NE, **sources}
    return Replicate({name: Decisions(x > 0, x) for name, x in all_sources.items()})


def arms_of(arms, pairs=PAIRS, exits=(2, 4), source=None) -> ArmVerdicts:
    """Pairs of a harmful and a harmless prompt, decided on by some arms."""
    N = 2 * pairs
    return ArmVerdicts(
        exits=exits,
        prompt_ids=tuple(f"p{n}" for n in range(N)),
        prompt_source_N=np.full(N, "set") if source is None else source,
        harmful_N=np.arange(N) % 2 == 0,
        clusters_N=np.array([f"pair {n // 2}" for n in range(N)]),
        arms=arms,
    )


@pytest.fixture(scope="module")
def made_up() -> ArmVerdicts:
    """Two seeds of thought with cuts and swaps, one of direct, and a probe, at random."""
    rng = np.random.default_rng(0)
    shape = (2 * PAIRS, 2)
    sign_N1 = np.where(np.arange(2 * PAIRS) % 2 == 0, 1.0, -1.0)[:, None]

    def scores(strength):
        return rng.normal(size=shape) + strength * sign_N1

    thought = tuple(
        replicate(scores(1.0), **{"cut 0": scores(0.0), "swapped": scores(-0.5)}) for _ in range(2)
    )
    direct, probe = (replicate(scores(0.5)),), (replicate(scores(0.7)),)
    source = np.where(np.arange(2 * PAIRS) < 20, "set", "builtin:ordinary")
    return arms_of({"direct": direct, "thought": thought, "probe": probe}, source=source)


def rows_by_key(rows, *names) -> dict:
    return {tuple(row[name] for name in names): row for row in rows}


def test_metrics_by_plain_code(made_up):
    keys = ("arm", "source", "metric", "group", "exit")
    rows = rows_by_key(metric_rows(made_up), *keys)
    harmful = made_up.harmful_N
    for arm, source in (("thought", "verdict"), ("thought", "cut 0"), ("direct", "verdict")):
        accuracy, recall = [], []
        for seed in made_up.arms[arm]:
            x = seed.decisions[source].log_odds_NE[:, 1]
            accuracy.append((np.mean(x[harmful] > 0) + np.mean(x[~harmful] <= 0)) / 2)
            recall.append(tpr_at_fpr(x, harmful, 0.01))
        row = rows[arm, source, "balanced_accuracy", ALL, 4]
        assert row["value"] == pytest.approx(np.mean(accuracy))
        assert row["low"] < row["value"] < row["high"]
        assert (row["seeds"], row["n"]) == (len(accuracy), 2 * PAIRS)
        scores = [seed.decisions[source].log_odds_NE[:, 1] for seed in made_up.arms[arm]]
        area = np.mean([roc_auc_score(harmful, each) for each in scores])
        assert rows[arm, source, "auroc", ALL, 4]["value"] == pytest.approx(area)
        if source == "verdict":
            found = rows[arm, source, "recall_at_1_fpr", ALL, 4]
            assert found["value"] == pytest.approx(np.mean(recall))
            p = [
                1 / (1 + np.exp(-s.decisions[source].log_odds_NE[:, 1])) for s in made_up.arms[arm]
            ]
            brier = np.mean([(each - harmful) ** 2 for each in p])
            assert rows[arm, source, "brier", ALL, 4]["value"] == pytest.approx(brier)
    x = made_up.arms["direct"][0].decisions["verdict"].log_odds_NE[:20, 1]
    over = rows["direct", "verdict", "over_refusal", LOOKALIKES, 4]
    assert over["value"] == pytest.approx(np.mean(x[~harmful[:20]] > 0))
    assert (over["n"], rows["direct", "verdict", "caught", "set", 4]["n"]) == (10, 10)
    assert np.isnan(rows["direct", "verdict", "caught", "builtin:ordinary", 4]["low"])  # 2 pairs


def test_recall_at_a_false_positive_rate_in_resamples():
    """Examples written out as often as a resample has them, ties among them."""
    rng = np.random.default_rng(0)
    score_N, y_N = rng.integers(0, 30, 300).astype(float), rng.random(300) < 0.4
    score_N += 5 * y_N
    counts_RN = rng.integers(0, 3, (40, 300)).astype(float)
    groups = [np.ones(300, bool), np.arange(300) % 2 == 0]
    recalls_MR = recalls_at_fpr(score_N, y_N, counts_RN, groups, 0.05)
    for group_N, recalls_R in zip(groups, recalls_MR, strict=True):
        for counts_N, recall in zip(counts_RN, recalls_R, strict=True):
            # Harmless examples of no group set the threshold too.
            often_N = (counts_N * (group_N | ~y_N)).astype(int)
            written, labels = np.repeat(score_N, often_N), np.repeat(y_N, often_N)
            assert recall == pytest.approx(tpr_at_fpr(written, labels, 0.05))
    none = recalls_at_fpr(score_N, y_N, np.where(y_N, counts_RN, 0), groups, 0.05)
    assert np.isnan(none).all()


def test_recall_at_one_percent_by_hand():
    """200 harmless prompts: the third highest of their scores is the threshold, not reached."""
    score_N = np.concatenate([np.arange(200.0), [197.0, 197.5, 150.0, 300.0]])
    y_N = np.arange(204) >= 200
    recalls = recalls_at_fpr(score_N, y_N, np.ones((1, 204)), [np.ones(204, bool)], 0.01)
    assert recalls == pytest.approx(0.5)  # 197.5 and 300 are above 197


@pytest.mark.parametrize("of_seeds", [0.0, 0.6])
def test_the_interval_of_a_gain_covers(of_seeds):
    """200 studies as if they were exits: the two arms are equal, but for seeds and prompts."""
    E, pairs, rng = 200, 60, np.random.default_rng(1)
    sign_N1 = np.where(np.arange(2 * pairs) % 2 == 0, 1.0, -1.0)[:, None]
    hardness_NE = 0.7 * rng.normal(size=(2 * pairs, E))
    pair_NE = 0.7 * np.repeat(rng.normal(size=(pairs, E)), 2, axis=0)

    def arm():
        return tuple(
            replicate(
                (0.8 + of_seeds * rng.normal(size=E)) * sign_N1
                + hardness_NE + pair_NE + rng.normal(size=(2 * pairs, E))
            )
            for _ in range(3)
        )  # fmt: skip

    c = arms_of({"direct": arm(), "thought": arm()}, pairs, tuple(range(1, E + 1)))
    gain = balanced_gain(c, Side("thought"), Side("direct")).estimate()
    covered = np.mean((gain.low <= 0) & (gain.high >= 0))
    assert 0.91 <= covered <= 0.99
    error = np.std(gain.value)
    if not of_seeds:  # as wide as the spread over studies says, not wider
        assert np.median(gain.high - gain.low) == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_flips_by_hand():
    """Pair 0: own verdicts differ, both flip; pair 1: differ, one flips; others: nothing could."""
    own, swapped = np.full((2, 2 * PAIRS, 1), 1.0)
    own[[1, 3]] = -1
    swapped[[0, 1, 3], 0] = -1, 1, -1
    swapped[4] = -1  # flips, though the pair's other prompt has the same verdict
    c = arms_of({"thought": (replicate(own, swapped=swapped),)}, exits=(4,))
    could, every = c.flips("thought", True), c.flips("thought", False)
    assert (could.value_E[0], could.n_E[0]) == (0.5, 4)
    assert every.value_E[0] == pytest.approx(3 / (2 * PAIRS))
    assert arms_of({"direct": (replicate(own),)}, exits=(4,)).flips("direct", True) is None


def test_answers_by_hand(made_up):
    N = 2 * PAIRS
    verdict_NE = np.full((N, 2), "comply", object)
    verdict_NE[::2] = "refuse"
    outcome_NE = np.full((N, 2), "off-topic", object)
    outcome_NE[0], outcome_NE[1:8:2], outcome_NE[23] = "refuse", "comply", None
    answered = Replicate(made_up.arms["direct"][0].decisions, verdict_NE, outcome_NE)
    spoken_N = np.full(N, "comply", object)
    c = ArmVerdicts(**vars(arms_of({"direct": (answered,)})) | {"spoken_N": spoken_N})
    assert c.answer_follows("direct", "refuse").value_E == pytest.approx([1 / 12, 1 / 12])
    follows = c.answer_follows("direct", "comply")
    assert (follows.value_E[1], follows.n_E[1]) == (pytest.approx(4 / 11), 11)
    assert c.after_comply_minus_spoken("direct").value_E == pytest.approx([4 / 12 - 1])
    assert arms_of(made_up.arms).answer_follows("direct", "comply") is None


def test_contrasts_and_their_tests(made_up):
    rows = rows_by_key(
        contrast_rows(made_up), "arm", "against", "against_source", "metric", "group", "exit"
    )
    row = rows["thought", "direct", "verdict", "balanced_accuracy", ALL, 4]
    one, other = (made_up.balanced_accuracy(arm).value_E[1] for arm in ("thought", "direct"))
    assert row["value"] == pytest.approx(one - other)
    assert (row["seeds"], row["against_seeds"], row["tests"]) == (2, 1, 2)
    assert row["p"] <= row["p_holm"] <= 1
    right = [
        (made_up.arms[a][0].decisions["verdict"].cautious_NE[:, 1] == made_up.harmful_N)
        for a in ("thought", "direct")
    ]
    assert row["right_only_first"] == np.sum(right[0] & ~right[1])
    assert row["n_for_5_points"] > 100
    assert ("thought", "thought", "cut 0", "balanced_accuracy", ALL, 4) in rows
    areas = made_up.auroc("thought"), made_up.auroc("thought", "cut 0")
    row = rows["thought", "thought", "cut 0", "auroc", ALL, 4]
    assert row["value"] == pytest.approx(areas[0].value_E[1] - areas[1].value_E[1])
    assert row["low"] < row["value"] < row["high"]
    assert ("direct", "probe", "verdict", "recall_at_1_fpr", ALL, 4) in rows
    assert "p" not in rows["thought", "direct", "verdict", "over_refusal", LOOKALIKES, 4]


def test_the_worst_exit():
    rng = np.random.default_rng(0)
    sign_N1 = np.where(np.arange(200) % 2 == 0, 1.0, -1.0)[:, None]
    score_NE = np.repeat(rng.normal(size=(200, 1)) + sign_N1, 4, axis=1)
    score_NE[:80, 1] *= -1  # exit 2 decides wrongly on 40 pairs of 100
    c = arms_of({"thought": (replicate(score_NE),)}, 100, (1, 2, 3, 4))
    accuracy = c.balanced_accuracy("thought")
    worst = accuracy.worst_drop([0, 1, 2])
    assert worst.value == pytest.approx(accuracy.value_E[1] - accuracy.value_E[3])
    assert worst.high < 0
    assert accuracy.worst_drop([0, 2]).value == 0


def test_held_refuted_or_open(made_up):
    def judged(low, high):
        return judge_wanted(Estimate((low + high) / 2, low, high), lambda x: x >= 0.5)

    assert [judged(0.6, 0.7), judged(0.3, 0.4), judged(0.4, 0.6)] == ["held", "refuted", "open"]
    assert judge_wanted(Estimate(np.nan, np.nan, np.nan), bool) == "not measurable"
    assert judge_wanted(Estimate(0.5, np.nan, np.nan), bool) == "too few prompts"
    lines = list(expectations(made_up))
    assert len(lines) == 10
    for phrase in ("85%", "the probe's lower bound", "look-alikes", "recall at least 45%", "adds"):
        assert any(phrase in line for line in lines), phrase
    assert lines[-1] == "  not run: verdicts of arm bottleneck that a swapped thought flips"
    without = arms_of({arm: made_up.arms[arm] for arm in ("direct", "probe")})
    assert list(expectations(without))[1:3] == [
        "  not run: all that is wanted of arm thought", "  not run: thought - direct",
    ]  # fmt: skip


def test_plans():
    units, given, chosen = plan_units(Arms())
    assert [u.name for u in units][:4] == ["direct-1", "direct-2", "direct-3", "thought-1"]
    assert len(units) == 2 * 3 + 4
    assert (given, chosen) == ({}, set(units))
    some = Arms(only=("filler", "thought-2"), adapters=("filler-2=x.safetensors",))
    units, given, chosen = plan_units(some)
    assert given == {Unit("filler", 2): "x.safetensors"}
    assert {u.name for u in chosen} == {"filler-1", "filler-2", "thought-2"}
    for changes, message in (
        ({"only": ("thought-4",)}, "did you mean 'thought-3'"),
        ({"adapters": ("thinker-1=x",)}, "no arm with a seed"),
        ({"adapters": ("nowhere",)}, "or a folder"),
        ({"seeds": (1, 1)}, "expected different ones"),
    ):
        with pytest.raises(InputError, match=message):
            plan_units(Arms(**changes))


def test_adapters_in_a_folder(tmp_path):
    with pytest.raises(InputError, match="has no adapter ARM-SEED"):
        plan_units(Arms(adapters=(str(tmp_path),)))
    (tmp_path / "any-1.safetensors").touch()
    (tmp_path / "notes-1.safetensors").touch()
    (tmp_path / "direct-7").mkdir()
    (tmp_path / "direct-7" / "adapter.safetensors").touch()
    units, given, _ = plan_units(Arms(adapters=(str(tmp_path),)))
    assert set(given) == {Unit("any", 1), Unit("direct", 7)}
    assert Unit("direct", 7) in units


def test_arms_think_but_for_direct():
    assert [arm for arm in ARMS if not ARMS[arm].thinks] == ["direct"]


def test_the_probe_is_chosen_by_folds_of_training_pairs():
    """AUROC of held-out pairs by scikit-learn; only layers that an exit runs are chosen."""
    rng = np.random.default_rng(0)
    harmful_N, clusters = np.arange(80) % 2 == 0, [str(n // 2) for n in range(80)]
    x_GND = rng.normal(size=(3, 80, 5)).astype(np.float32)
    x_GND[1, :, 0] += 1.0 * harmful_N
    x_GND[2, :, 1] += 4.0 * harmful_N
    area_GC = cross_validate(x_GND, harmful_N, clusters, (0.01, 1.0), 4, seed=0)
    from jaxdepth.probing.folds import make_folds

    fold_N, areas = make_folds(clusters, harmful_N, 4, 0), []
    for fold in range(4):
        train_N = fold_N != fold
        mean, scale = x_GND[2][train_N].mean(0), x_GND[2][train_N].std(0)
        z_ND = (x_GND[2] - mean) / np.sqrt((scale**2).mean())
        probe = LogisticRegression(C=1.0).fit(z_ND[train_N], harmful_N[train_N])
        areas.append(roc_auc_score(harmful_N[~train_N], probe.decision_function(z_ND[~train_N])))
    assert area_GC[2, 1] == pytest.approx(np.mean(areas), abs=1e-6)
    assert choose(area_GC, [1, 2, 3], (0.01, 1.0), 4)[0] == 3
    assert choose(area_GC, [1, 2, 3], (0.01, 1.0), 2)[0] == 2
    tied = np.full((2, 2), 0.8)
    assert choose(tied, [1, 2], (1.0, 0.01), 2) == (1, 0.01)
