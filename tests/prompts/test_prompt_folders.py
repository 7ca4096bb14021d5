"""Folders of datasets and runs, and datasets of the hub, as sources of prompts."""

import json
import shutil
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.prompts.datasets import prompts_digest, read_prompts
from jaxdepth.prompts.prompt import Message
from jaxdepth.study.common_tables import PROMPTS

ROWS = [{"prompt": BREAD, "category": "x"}, {"prompt": EGG, "category": "y"}]


def save(folder, *files):
    """A dataset as `Dataset.save_to_disk` of the datasets library writes it."""
    folder.mkdir(parents=True)
    for number, name in enumerate(files):
        table = pa.Table.from_pylist(ROWS[number :: len(files)])
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in files], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def texts_of(*sources):
    return [p.text for p in read_prompts(sources)]


def test_a_saved_dataset(tmp_path):
    folder = save(tmp_path / "mine", "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    assert [(p.prompt_id, p.source) for p in read_prompts([folder])] == [
        ("mine-0001", "mine"),
        ("mine-0002", "mine"),
    ]
    assert texts_of(f"{folder}[:1]") == [BREAD]
    (tmp_path / "mine" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"lacks data-00001-of-00002.arrow: save it again"):
        read_prompts([folder])


def test_a_saved_dataset_of_several_splits(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "mine" / split, "data-00000-of-00001.arrow")
    (tmp_path / "mine" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=r"has the splits train, test: name one, such as .*/test"):
        read_prompts([str(tmp_path / "mine")])
    (one, _) = read_prompts([str(tmp_path / "mine" / "test")])
    assert (one.prompt_id, one.source) == ("mine-test-0001", "mine/test")
    with pytest.raises(InputError, match=r"tset does not exist .*did you mean 'test'"):
        read_prompts([str(tmp_path / "mine" / "tset")])
    (tmp_path / "mine" / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(InputError, match="does not list its splits"):
        read_prompts([str(tmp_path / "mine")])


def test_a_folder_as_the_hub_has_it(tmp_path):
    hub = tmp_path / "bread"
    write_file(hub, "data/train-00000-of-00002.parquet", ROWS[:1])
    write_file(hub, "data/train-00001-of-00002.parquet", ROWS[1:])
    write_file(hub, "README.md", "no data")
    write_file(hub, ".cache/other.parquet", ROWS)
    write_file(hub, "dataset_infos.json", "{}")
    assert texts_of(str(hub)) == [BREAD, EGG]
    write_file(hub, "data/harmful-00000-of-00001.parquet", ROWS[1:])
    write_file(hub, "german/test/0000.parquet", ROWS[:1])
    with pytest.raises(InputError, match="has the splits harmful, train, german/test"):
        read_prompts([str(hub)])
    prompts = read_prompts([f"{hub}/{split}" for split in ("harmful", "german/test", "train[:1]")])
    assert [(p.prompt_id, p.label) for p in prompts] == [
        ("bread-harmful-0001", "harmful"),
        ("test-0001", None),
        ("bread-train-0001", None),
    ]


def test_folders_without_prompts(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without prompts"):
        read_prompts([str(tmp_path / "empty")])
    with pytest.raises(InputError, match="does not exist"):
        read_prompts([str(tmp_path / "empty" / "none.csv")])


def test_the_prompts_of_a_run_are_the_same_prompts(tmp_path):
    rows = [{"prompt": BREAD, "label": "safe"}, {"prompt": EGG}]
    prompts = read_prompts(["builtin:pairs[:4]", write_file(tmp_path, "mine.jsonl", rows)])
    earlier = (Message("user", "Hello"), Message("assistant", "Hello!"))
    prompts[0] = replace(prompts[0], system="Be brief.", earlier=earlier, prefill="Sure,")
    run = tmp_path / "run"
    run.mkdir()
    pq.write_table(PROMPTS.from_rows(p.as_row() for p in prompts), run / "prompts.parquet")
    (run / "run.json").write_text("{}")
    for source in (run, run / "prompts.parquet"):
        again = read_prompts([str(source)])
        assert again == prompts
        assert prompts_digest(again) == prompts_digest(prompts)
    table = pq.read_table(run / "prompts.parquet").drop_columns(["system", "earlier", "prefill"])
    pq.write_table(table, tmp_path / "prompts.parquet")  # as an earlier version wrote it
    assert read_prompts([str(tmp_path / "prompts.parquet")])[1:] == prompts[1:]


def test_a_dataset_of_the_hub_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs datasets: pip install 'jaxdepth\[datasets\]"):
        read_prompts(["hf:a/b"])
    with pytest.raises(InputError, match="expected hf:OWNER/NAME"):
        read_prompts(["hf:a"])


def test_a_dataset_of_the_hub_from_the_cache(tmp_path, monkeypatch):
    """As the library caches it, and without the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, rows in (("train", ROWS), ("harmful", ROWS[1:])):
        write_file(tmp_path / "made", f"data/{split}-00000-of-00001.parquet", rows)
    datasets.load_dataset(str(tmp_path / "made"))
    cached = tmp_path / "cache" / "someone___made"
    shutil.copytree(tmp_path / "cache" / "made", cached)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"has the splits .*: write hf:someone/made/SPLIT"):
        read_prompts(["hf:someone/made"])
    for name in ("hf:someone/made/harmful", "hf:someone/made/default/harmful"):
        (prompt,) = read_prompts([name])
        assert (prompt.text, prompt.label) == (EGG, "harmful")
        assert prompt.source == name
    with pytest.raises(InputError, match="has no split tset; it has "):
        read_prompts(["hf:someone/made/tset"])
    with pytest.raises(InputError, match="hf:someone/none cannot be loaded"):
        read_prompts(["hf:someone/none"])
