"""The hub's cache, as its client keeps it."""


def hub_cache(monkeypatch, tmp_path, folder):
    """Put a folder into an offline cache as the model `some/model`: links to blobs."""
    from huggingface_hub import constants

    model = tmp_path / "hub" / "models--some--model"
    (model / "refs").mkdir(parents=True)
    (model / "blobs").mkdir()
    snapshot = model / "snapshots" / ("0" * 40)
    (model / "refs" / "main").write_text("0" * 40)
    for number, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
        blob, link = model / "blobs" / str(number), snapshot / file.relative_to(folder)
        blob.write_bytes(file.read_bytes())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
