"""The study of certified exits once, on a tiny model: from probes to certificates."""

import json

import pytest

from jaxdepth import InputError
from jaxdepth.probing.harm_probe import read_harm_probes, text_digest
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.weights.checkpoint import read_manifest

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.mark.slow
def test_the_study(tiny_path, tmp_path, run_experiment, capsys):
    args = [tiny_path, "--out", tmp_path / "s", "--exits", "2-4", "--max-new-tokens", 3]
    args += ["--fit", "builtin:pairs/validation[:24]", "--prompts", "builtin:pairs/test[:44]"]
    args += ["--policy", "fixed=2,3", "guarded=content@1:0.4,0.6/3"]
    args += ["--harmful", 0.5, "--over-refusal", 0.5, "--quality-loss", 0.5]
    assert run_experiment("certified_exit", *args) == 0
    printed = capsys.readouterr().out
    # A random model answers nothing, which is no safety.
    assert printed.count("Nothing is certified: full depth answers ") == 2
    answers = read_frame(tmp_path / "s" / "policies", "dynamic")
    guarded = answers[answers["policy"] == "guarded"]
    assert set(guarded["mean_exit"]) <= {3, 4}
    probes = tmp_path / "s" / "probe" / "probes.safetensors"
    assert probes.name in read_record(probes.parent)["files"]
    fitted = read_harm_probes(probes, read_manifest(tiny_path)["fingerprint"])
    texts = {p.text for p in read_prompts(["builtin:pairs/validation[:24]"])}
    assert fitted.prompts == {text_digest(text) for text in texts}
    for policy in ("fixed", "guarded"):
        content = json.loads((tmp_path / "s" / f"certificate_{policy}.json").read_text())
        assert (
            content["system"]["probes_sha256"] == read_record(probes.parent)["files"][probes.name]
        )
        assert {row["family"].split()[0] for row in content["rules"]} == {policy}
        assert content["prompts"]["calibration"]["harmful"] == 11
    with pytest.raises(InputError, match="--probes does not apply"):
        run_experiment("certified_exit", *args, "--probes", probes)
