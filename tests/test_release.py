"""The release: what is refused and why, gates, promotion."""
import json
import os
import stat
import subprocess
import sys
import zipfile

import pytest

from fullstack_ml.archive import Archive, verify, write_archive
from fullstack_ml.core import BadConfig, Damaged, FsmlError, GateFailed, NotFound, Refused, Unavailable, compose_cfg
from fullstack_ml.records import list_artifacts
from fullstack_ml.release import check_golden, open_release, production, promote, release, rollback
from release_fixture import make_release_fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_release_fixture(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def members(made):
    with Archive(made.sample) as archive:
        return {name: archive.read(name) for name in archive.files}


def rewritten(path, target, change):
    """The zip with `change(entries)` applied to its list of (ZipInfo, bytes), hashes untouched."""
    with zipfile.ZipFile(path) as z:
        entries = [(i, z.read(i)) for i in z.infolist()]
    with zipfile.ZipFile(target, "w") as z:
        for info, data in change(entries):
            z.writestr(info, data)
    return target


def entry(name, mode=stat.S_IFREG | 0o644, compress=zipfile.ZIP_STORED):
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr, info.compress_type = mode << 16, compress
    return info


def add(name, data=b"", **how):
    return lambda entries: [*entries, (entry(name, **how), data)]


def swap(entries):
    """Exchange the contents of two members of the same kind."""
    found = {i.filename: d for i, d in entries}
    other = {"golden/00.png": found["golden/01.png"], "golden/01.png": found["golden/00.png"]}
    return [(i, other.get(i.filename, d)) for i, d in entries]


def flip(name):
    return lambda entries: [(i, bytes([d[0] ^ 1]) + d[1:] if i.filename == name else d) for i, d in entries]


HARM = {
    "tampered graph": (flip("graphs/float.onnx"), Damaged, "changed after sealing"),
    "tampered code": (flip("code/fullstack_ml/serve.py"), Damaged, "changed after sealing"),
    "swapped members": (swap, Damaged, "changed after sealing"),
    "missing member": (lambda e: [x for x in e if x[0].filename != "golden/00.png"], Damaged, "do not agree"),
    "no manifest": (lambda e: [x for x in e if x[0].filename != "MANIFEST.json"], Damaged, "none at all"),
    "extra member": (add("extra.txt", b"hello"), Damaged, "do not agree"),
    "climbing name": (add("../../evil.txt"), Refused, "could leave the archive"),
    "climbing name inside": (add("golden/../../evil.txt"), Refused, "could leave the archive"),
    "absolute name": (add("/etc/evil.txt"), Refused, "could leave the archive"),
    "name of Windows": (add("C:\\evil.txt"), Refused, "could leave the archive"),
    "folder": (add("golden/"), Refused, "could leave the archive"),
    "symlink": (add("golden/link.txt", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), Refused, "link"),
    "device": (add("golden/null.txt", b"", mode=stat.S_IFCHR | 0o666), Refused, "no plain file"),
    "bomb": (add("golden/zeros.txt", bytes(50 << 20), compress=zipfile.ZIP_DEFLATED), Refused, "compressed"),
    "pickle by name": (add("model.pkl", b""), Refused, "pickled"),
    "torch file": (add("graphs/model.pt", b""), Refused, "pickled"),
    "unknown kind": (add("run.sh", b"echo"), Refused, "no kind that an archive holds"),
}


@pytest.mark.parametrize("harm", HARM)
def test_harmed_releases_are_refused_with_the_reason(made, tmp_path, harm):
    change, error, reason = HARM[harm]
    bad = rewritten(made.sample, tmp_path / "bad.zip", change)
    for refuse in (verify, open_release):
        with pytest.raises(error, match=reason):
            refuse(bad)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1000, -1])
def test_truncated(made, tmp_path, keep):
    (tmp_path / "bad.zip").write_bytes(made.sample.read_bytes()[:keep])
    with pytest.raises(Damaged, match="cut short"):
        verify(tmp_path / "bad.zip")


def test_twice_the_same_name(made, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        bad = rewritten(made.sample, tmp_path / "bad.zip", lambda e: [*e, next(x for x in e if x[0].filename == "MODEL_CARD.md")])
    with pytest.raises(Damaged, match="do not agree: MODEL_CARD.md"):
        verify(bad)


def test_overlapping_members_cannot_multiply(made, tmp_path):
    """Central directory entries that all point at the same bytes: the classic bomb without compression."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr(entry("a.txt"), bytes(1 << 20))
        for n in range(200):
            again = entry(f"a{n}.txt")
            again.header_offset, again.file_size, again.compress_size, again.CRC = 0, 1 << 20, 1 << 20, z.filelist[0].CRC
            z.filelist.append(again)
            z.NameToInfo[again.filename] = again
    with pytest.raises(Refused, match="more than the file holds"):
        verify(tmp_path / "bad.zip")


def test_a_manifest_made_to_fit_is_another_release(made, members, tmp_path):
    """Whoever hashes everything again cannot keep the id."""
    manifest = verify(made.sample)
    changed = {**members, "MODEL_CARD.md": b"# All is well"}
    assert write_archive(tmp_path / "other.zip", "sample", changed) != manifest["id"]

    def forge(entries):
        told = json.loads(next(d for i, d in entries if i.filename == "MANIFEST.json")) | {"id": manifest["id"]}
        return [(i, json.dumps(told).encode() if i.filename == "MANIFEST.json" else d) for i, d in entries]

    with pytest.raises(Damaged, match="not the one that it says"):
        verify(rewritten(tmp_path / "other.zip", tmp_path / "forged.zip", forge))


RESEALED = {
    "pickled bytes": ({"golden/00.png": b"\x80\x04\x95pickle"}, Refused, "begins like pickled"),
    "archive in the archive": ({"golden/00.png": b"PK\x03\x04nested"}, Refused, "archive"),
    "no graph": ({"graphs/float.onnx": b"these are no protocol buffers"}, Damaged, "no ONNX graph"),
}


@pytest.mark.parametrize("harm", RESEALED)
def test_resealed_with_harmful_content(made, members, tmp_path, harm):
    change, error, reason = RESEALED[harm]
    write_archive(tmp_path / "bad.zip", "sample", {**members, **change})
    with pytest.raises(error, match=reason):
        open_release(tmp_path / "bad.zip")


def test_foreign_task_and_missing_graph(made, members, tmp_path):
    about = json.loads(members["release.json"])
    for change, error in [({"task": {"_target_": "os.system", "command": "true"}}, BadConfig), ({"graphs": {"float": {"model": "graphs/none.onnx"}}}, Damaged), ({"default": "int4"}, BadConfig), ({"golden": 7}, Damaged)]:
        write_archive(tmp_path / "bad.zip", "sample", {**members, "release.json": json.dumps(about | change).encode()})
        with pytest.raises(error):
            open_release(tmp_path / "bad.zip")


def test_external_data(members, tmp_path):
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load_from_string(members["graphs/float.onnx"])
    set_external_data(next(t for t in model.graph.initializer if len(t.raw_data) > 100), "/etc/passwd")
    write_archive(tmp_path / "bad.zip", "sample", {**members, "graphs/float.onnx": model.SerializeToString()})
    with pytest.raises(Refused, match="another file"):
        open_release(tmp_path / "bad.zip")


def test_wrong_golden_answers_do_not_open(made, members, tmp_path):
    about = json.loads(members["release.json"])
    for key, value, reason in [("label", {"kind": "choice", "names": ["four"]}, "answered otherwise"), ("confidence", 0.001, "another confidence")]:
        wrong = json.loads(json.dumps(about))
        wrong["golden"][1]["answers"]["float"][key] = value
        write_archive(tmp_path / "bad.zip", "sample", {**members, "release.json": json.dumps(wrong).encode()})
        with pytest.raises(Damaged, match=f"golden/01.png is answered {reason.removeprefix('answered ')}|{reason}"):
            open_release(tmp_path / "bad.zip")


def test_a_nan_confidence_is_no_match(made, members):
    opened = open_release(made.sample)
    told = {**opened.about["golden"][0], "answers": {"float": {**opened.about["golden"][0]["answers"]["float"], "confidence": float("nan")}}}
    with pytest.raises(Damaged):
        check_golden(opened, [(members["golden/00.png"], told)])


def test_sealing_is_deterministic_and_carries_no_pickle(made, members, tmp_path):
    for name in ("a.zip", "b.zip"):
        write_archive(tmp_path / name, "sample", dict(sorted(members.items(), reverse=name == "b.zip")))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    code = {n.removeprefix("code/") for n in members if n.startswith("code/")}
    assert {"fullstack_ml/serve.py", "fullstack_ml/core.py", "fullstack_ml/tasks/image_cls.py"} <= code
    assert not code & {"fullstack_ml/train.py", "fullstack_ml/models/backbone.py", "fullstack_ml/compress.py"}
    packages = {line.partition("==")[0] for line in members["requirements.txt"].decode().split()}
    assert {"bentoml", "numpy", "onnxruntime", "starlette", "python-multipart"} <= packages
    assert not packages & {"torch", "timm", "torchvision", "hydra-core", "sqlalchemy", "pandas", "wandb"}


def test_opening_loads_neither_torch_nor_the_rooms_below(made):
    code = "import sys; from fullstack_ml.release import open_release; open_release(sys.argv[1]); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, str(made.sample)], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "timm", "torchvision", "sklearn", "hydra", "sqlalchemy", "pandas", "pyarrow", "onnx"} & set(out)


def test_the_stage(made, capsys):
    first = release(made.cfg)
    opened = open_release(first.path("release.zip"))
    assert opened.id == first.metrics["release"] and opened.variant == "int8" and not first.metrics["trial"]
    item, label = made.pairs[1]
    assert opened.predict([opened.task.parse(item.data, "image/png")])[0].label == label
    assert open_release(first.path("release.zip"), "float").variant == "float"
    card = first.path("MODEL_CARD.md").read_text()
    assert all(word in card for word in ("CC-BY-4.0 (24)", "author 0 (8)", "8 items, against checked labels", "| accuracy | at least 0.9 | 0.97 | True |"))
    assert first.id not in card and made.parents["train"].id in card
    assert opened.id in capsys.readouterr().out
    assert sorted(p.name for p in (first.dir.parents[1] / "bento").iterdir()) == ["MODEL_CARD.md", "release.zip", "requirements.txt"]


@pytest.mark.parametrize("gate, value", [("accuracy", 0.98), ("max_drop", 0.001), ("latency_p95_ms", 1), ("size_mb", 0.1), ("licences", ["CC0-1.0"])])
def test_a_missed_gate_is_named_and_leaves_nothing(made, gate, value):
    made.write_problem(**{gate: value})
    folder = made.parents["train"].dir.parents[1] / "release"
    before = sorted(folder.rglob("*")) if folder.exists() else []
    with pytest.raises(GateFailed, match=gate):
        release(made.cfg)
    assert (sorted(folder.rglob("*")) if folder.exists() else []) == before
    made.write_problem()


def test_unknown_gates_and_trials(made):
    made.write_problem(beauty=0.5)
    with pytest.raises(BadConfig, match="beauty"):
        release(made.cfg)
    made.write_problem(accuracy=0.99)
    root = str(made.parents["train"].dir.parents[1])
    trial = release(compose_cfg("release", ["golden=2", "profile=smoke", f"storage.root={root}"], out=root))
    assert trial.metrics["trial"] and trial.metrics["gates_missed"] == ["accuracy"]
    assert "this is a trial" in trial.path("MODEL_CARD.md").read_text()
    made.write_problem()


def test_parents_of_two_runs(made):
    other = made.write("train", {"dataset": made.parents["dataset"]}, more={"x": 1})
    made.write("evaluate", {"train": other, "dataset": made.parents["dataset"]}, metrics=made.parents["evaluate"].read_json("metrics.json"))
    with pytest.raises(BadConfig, match="different artefacts of the kind train"):
        release(made.cfg)
    made.write("evaluate", {"train": made.parents["train"], "dataset": made.parents["dataset"]}, metrics=made.parents["evaluate"].read_json("metrics.json"))


def test_promotion(made, monkeypatch):
    import fullstack_ml.release as room

    found = list_artifacts(made.cfg, "release") or [release(made.cfg)]
    first, second = found[0], release(made.cfg)
    folder = first.dir.parent
    (folder / "production.json").unlink(missing_ok=True)
    with pytest.raises(NotFound):
        production(made.cfg)
    promote(made.cfg, first.metrics["release"])
    promote(made.cfg, "latest")
    assert production(made.cfg).id == second.id

    def die(*_):
        raise OSError("the power went out")

    with monkeypatch.context() as m:  # interrupted at the only moment that matters
        m.setattr(os, "replace", die)
        with pytest.raises(OSError):
            rollback(made.cfg)
    assert production(made.cfg).id == second.id and not list(folder.glob(".production*"))
    assert rollback(made.cfg).id == first.id == production(made.cfg).id
    with pytest.raises(NotFound):
        rollback(made.cfg)
    with room._pointer(made.cfg):  # somebody else is at it
        with pytest.raises(Unavailable):
            promote(made.cfg, "latest")
    assert production(made.cfg).id == first.id


def test_a_damaged_release_is_not_promoted(made):
    found = list_artifacts(made.cfg, "release") or [release(made.cfg)]
    promote(made.cfg, found[-1].id)
    zip = found[-1].dir / "release.zip"
    whole = zip.read_bytes()
    zip.write_bytes(whole[:-100])
    try:
        with pytest.raises(FsmlError):
            promote(made.cfg, found[-1].id)
    finally:
        zip.write_bytes(whole)
