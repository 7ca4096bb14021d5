"""The files that come with the package: every settings file, and what the wheel holds."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from jaxdepth.refusal.protocol import Protocol
from jaxdepth.settings_file import check_settings, read_settings
from jaxdepth.study.certificates.settings import CertifiedExit
from jaxdepth.study.checkpoints.settings import Backfire, ProbeAgainst
from jaxdepth.study.comparison.settings import Alignment, Study
from jaxdepth.study.policies.settings import StaticOrDynamic
from jaxdepth.study.probes.settings import Where
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.study.tuning.settings import Tune

ROOT = Path(__file__).parents[2]


def test_every_file_in_configs_is_read():
    for_what = {
        "alignment_methods": Alignment,
        "backfire": Backfire,
        "capability_elicitation": ProbeAgainst,
        "demo": Study,
        "depth_robust_safety": Study,
        "first_look": Sweep,
        "where_is_safety": Where,
        "truncation_7b": Sweep,
        "static_or_dynamic": StaticOrDynamic,
        "certified_exit": CertifiedExit,
        "think_then_decide": ThinkThenDecide,
        **dict.fromkeys(("bottleneck", "direct", "prompted", "tuned"), Protocol),
        "your_model": Study,
        "tune/after_alignment": Tune,
        "tune/all_exits": Tune,
        "tune/depth_robust": Tune,
        "tune/dpo": Tune,
        "tune/lens": Tune,
        "tune/random_refusals": Tune,
        "tune/shallow": Tune,
        "tune/spoken": Tune,
        "tune/thinker": Tune,
    }
    folder = ROOT / "configs"
    names = [str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.toml")]
    assert sorted(for_what) == sorted(names)
    for name, cls in for_what.items():
        file = folder / f"{name}.toml"
        assert read_settings(cls, str(file)) == read_settings(cls, name)
        check_settings(cls, tomllib.loads(file.read_text()), file.name)


def test_the_wheel_holds_all_that_a_run_needs(tmp_path):
    """Builds the wheel, and reads prompts and settings with only its content on the path."""
    args = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT]
    subprocess.run(args, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "unpacked"], check=True
    )
    script = """
import jaxdepth
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.study.tuning.settings import (Tune)
from jaxdepth.study.sweep.settings import (Sweep)
from jaxdepth.settings_file import read_settings
from jaxdepth.tune.tasks import read_tasks
print(jaxdepth.__file__)
assert len(read_prompts(["builtin:pairs", "builtin:ordinary"])) >= 800
assert read_settings(Sweep, "first_look")["exits"] == "all"
assert read_settings(Tune, "tune/shallow")["seed"] == 1
assert len(read_tasks(read_prompts(["builtin:harmful/train"]), "builtin")["benign"]) >= 6000
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "unpacked"))
