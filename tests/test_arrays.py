"""Sets that are published as arrays: what is whole becomes a version, what is not names its file."""
import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fullstack_ml.arrays import import_arrays, read_idx
from fullstack_ml.cli import main
from fullstack_ml.core import BadConfig, BadInput, FsmlError, NotFound, compose_cfg
from fullstack_ml.dataset import open_dataset


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    rng, home = np.random.default_rng(0), tmp_path / "digits"
    home.mkdir()
    for name, n in (("train", 120), ("t10k", 30)):
        (home / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (n, 28, 28), np.uint8))))
        (home / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx((np.arange(n) % 10).astype(np.uint8))))
    return home


def config(tmp_path, name="digits"):
    return compose_cfg("dataset", [f"name={name}", "licences=[CC0-1.0]", "near_duplicate_bits=0"], out=str(tmp_path / "out"))


def test_everybody_holds_out_the_same_items(tmp_path, folder):
    held = []
    for name in ("one", "two"):
        cfg = config(tmp_path, name)
        data = open_dataset(import_arrays(cfg, folder, "idx", "CC0-1.0"), str(cfg.storage.blobs))
        held.append({e.item.sha256 for e in data if e.split == "val"})
        assert len(data.items("test")) == 30 and data.classes == [str(k) for k in range(10)]
    assert held[0] == held[1] and 2 <= len(held[0]) <= 25


def test_the_same_from_the_command_line(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path / "out"))
    assert main(["versions", "import", str(folder), "--format", "idx", "--name", "digits", "--licence", "CC0-1.0", "near_duplicate_bits=0"]) == 0
    assert "150 items" in capsys.readouterr().out


@pytest.mark.parametrize("spoil, said", [
    (lambda f: (f / "train-labels-idx1-ubyte.gz").unlink(), "train-images-idx3-ubyte.gz.*labels-idx1"),
    (lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes(b"junk"), "t10k-images-idx3-ubyte.gz"),
    (lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes((f / "train-images-idx3-ubyte.gz").read_bytes()[:-50]), "t10k-images"),
    (lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes((b := (f / "train-images-idx3-ubyte.gz").read_bytes())[:99] + b"x" * 99 + b[198:]), "t10k-images"),
    (lambda f: (f / "t10k-labels-idx1-ubyte.gz").write_bytes((f / "train-labels-idx1-ubyte.gz").read_bytes()), "do not belong together.*30 pictures, 120 labels"),
    (lambda f: [p.unlink() for p in f.iterdir()], "no file of pictures"),
])  # fmt: skip
def test_what_is_not_whole_names_its_file(tmp_path, folder, spoil, said):
    spoil(folder)
    with pytest.raises(FsmlError, match=said):
        import_arrays(config(tmp_path), folder, "idx", "CC0-1.0")
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_torchvisions_sets_are_those_that_there_are(tmp_path, folder):
    with pytest.raises(BadConfig, match="CIFAR1000.*CIFAR10"):
        import_arrays(config(tmp_path), folder, "torchvision.CIFAR1000")
    with pytest.raises(NotFound, match="CIFAR10"):
        import_arrays(config(tmp_path), folder, "torchvision.CIFAR10")


def test_a_set_of_torchvisions_is_read_by_torchvision(tmp_path):
    """MNIST in full, where a folder of it is given: both ways give the same pictures."""
    given = Path(os.environ.get("FSML_TEST_MNIST", ""))
    if not os.environ.get("FSML_TEST_MNIST"):
        pytest.skip("FSML_TEST_MNIST names no folder of MNIST's idx files")
    from fullstack_ml.arrays import idx_rows, torchvision_rows

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in given.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    theirs = [(s, image, name[0]) for s, image, name in torchvision_rows(tmp_path, "MNIST")]
    ours = sorted(idx_rows(given), key=lambda row: row[0] == "test")
    assert len(ours) == len(theirs) == 70_000
    assert all(a[0] == b[0] and a[2] == b[2] and np.array_equal(a[1], b[1]) for a, b in zip(ours, theirs))


def test_a_file_of_other_numbers_is_refused(tmp_path):
    path = tmp_path / "floats"
    path.write_bytes(struct.pack(">HBBI", 0, 13, 1, 2) + b"\0" * 8)
    with pytest.raises(BadInput, match="floats"):
        read_idx(path)
