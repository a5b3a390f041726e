"""Bytes and finished artefacts in a folder, in memory and in a bucket of a real S3-compatible server."""
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from house import ROOT

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, Damaged, NotFound, Unavailable, compose_cfg, sha256
from fullstack_ml.records import draft, find_artifact, find_fresh, find_parents, list_artifacts, list_kinds

PICTURE = b"\x89PNG picture of a seven"
VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "FSSPEC_S3_ENDPOINT_URL")


@pytest.fixture(scope="module")
def server():
    """The address of an S3-compatible server on loopback, as a bucket's owner would run one."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, and a client of another make to look into it."""
    import boto3
    import s3fs

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    made = boto3.resource("s3").Bucket(f"fsml-{uuid.uuid4().hex[:10]}")
    made.create()
    yield made
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def url(request, tmp_path):
    """The address of an empty place of each sort."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket').name}/far"
    return {"folder": str(tmp_path / "far"), "file": f"file://{tmp_path}/far", "memory": f"memory://{uuid.uuid4().hex}"}[request.param]


# --- blobs -----------------------------------------------------------------------------------------------------------


def test_what_is_put_can_be_had_again(url):
    store = BlobStore(url)
    assert list(store) == [] and sha256(PICTURE) not in store, "an empty place is no error"
    name = store.put(PICTURE)
    assert name == sha256(PICTURE) == store.put(PICTURE) and store.get(name, check=True) == PICTURE and name in store
    empty = store.put(b"")
    assert store.get(empty) == b"" and sorted(store) == sorted([name, empty]), "stored once"
    assert sorted(BlobStore(url)) == sorted([name, empty]), "seen from elsewhere"


def test_what_is_deleted_is_gone(url):
    store = BlobStore(url)
    name = store.put(PICTURE)
    store.delete(name)
    store.delete(name)
    assert name not in store and list(store) == []
    with pytest.raises(NotFound, match="crawl again"):
        store.get(name)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "A" * 64])
def test_nothing_but_a_hash_becomes_a_path(url, name):
    store = BlobStore(url)
    for act in (store.get, store.delete, store.__contains__):
        with pytest.raises(NotFound):
            act(name)


def test_another_process_may_have_added_to_a_bucket(bucket):
    store, other = BlobStore(f"s3://{bucket.name}/far"), BlobStore(f"s3://{bucket.name}/far")
    assert list(store) == []
    name = sha256(PICTURE)
    bucket.put_object(Key=f"far/{name[:2]}/{name}", Body=PICTURE)
    assert list(store) == list(other) == [name] and name in store and store.get(name, check=True) == PICTURE


def test_a_damaged_blob_is_found_out(bucket):
    store = BlobStore(f"s3://{bucket.name}")
    name = store.put(PICTURE)
    bucket.put_object(Key=f"{name[:2]}/{name}", Body=b"a six")
    with pytest.raises(Damaged, match=name[:16]):
        store.get(name, check=True)
    store.put(PICTURE)
    assert store.get(name, check=True) == PICTURE, "storing it again heals it"


def test_a_new_blob_is_one_request(bucket, monkeypatch):
    store, asked = BlobStore(f"s3://{bucket.name}"), []
    store.put(b"the first finds out where the bucket is")
    call = store.fs._call_s3

    async def listen(method, *args, **kwargs):
        asked.append(method)
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(store.fs, "_call_s3", listen)
    name = store.put(PICTURE)
    assert store.get(name) == PICTURE and asked == ["put_object", "get_object"]
    assert bucket.Object(f"{name[:2]}/{name}").get()["Body"].read() == PICTURE, "as another client sees it"


def test_eight_threads_share_a_store(url):
    store, errors = BlobStore(url), []
    bodies = [os.urandom(500) for _ in range(12)]

    def work(k):
        try:
            for body in bodies[k:] + bodies[:k]:
                assert store.get(store.put(body), check=True) == body
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and sorted(store) == sorted(map(sha256, bodies))


def test_a_killed_put_leaves_no_half_blob(tmp_path):
    program = f"""
import os
from fullstack_ml.blobs import BlobStore
store = BlobStore({str(tmp_path)!r})
print("go", flush=True)
n = 0
while True: store.put(b"%d" % (n := n + 1) * 200_000)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = BlobStore(str(tmp_path))
    names = list(store)
    assert names and all(store.get(name, check=True) for name in names)


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s4://bucket"])
def test_an_address_that_is_none(url):
    with pytest.raises(BadConfig, match="address of a blob store"):
        BlobStore(url)


def test_a_bucket_that_is_not_there_is_told_as_such(bucket):
    store = BlobStore("s3://fsml-no-such-bucket/far")
    with pytest.raises(Unavailable, match="Make the bucket first"):
        store.put(PICTURE)


def test_a_server_that_does_not_answer_is_told_as_such(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = BlobStore(f"s3://{bucket.name}")
    store.fs.retries = 1
    with pytest.raises(Unavailable, match="Does it answer"):
        store.get(sha256(PICTURE))


def test_the_endpoint_may_also_come_from_fsspec(bucket, server):
    env = {k: v for k, v in os.environ.items() if k != "AWS_ENDPOINT_URL"} | {"FSSPEC_S3_ENDPOINT_URL": server}
    program = f"from fullstack_ml.blobs import BlobStore; print(BlobStore('s3://{bucket.name}/far').put(b'x'))"
    told = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert told.stdout.strip() == sha256(b"x"), told.stderr
    assert [o.key for o in bucket.objects.all()] == [f"far/{sha256(b'x')[:2]}/{sha256(b'x')}"]


# --- finished artefacts on a remote ----------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch, url):
    """Configurations of as many machines as asked for; all copy to one remote place."""
    monkeypatch.setenv("FSML_REMOTE_URL", url)
    return lambda name, *overrides, stage="problem": compose_cfg(stage, overrides, out=str(tmp_path / name))


@pytest.fixture
def s3_machine(tmp_path, monkeypatch, bucket):
    """The same with a bucket as the remote place, where it shows best."""
    monkeypatch.setenv("FSML_REMOTE_URL", f"s3://{bucket.name}/far")
    return lambda name: compose_cfg("problem", out=str(tmp_path / name))


def make(cfg, kind="problem", parents=None, text="{}"):
    with draft(kind, cfg, parents or {}) as d:
        (d.dir / "sub").mkdir()
        (d.dir / "sub" / "värde.json").write_text(text)
        (d.dir / "empty").write_bytes(b"")
    return d.manifest


def below(cfg, kind="problem") -> list[str]:
    home = Path(cfg.storage.root) / kind
    return sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()) if home.is_dir() else []


def test_an_artefact_made_here_is_found_there(machine):
    here, there = machine("here"), machine("there")
    assert list_artifacts(there, "problem") == [] == below(there) == list_kinds(there)
    with pytest.raises(NotFound, match="fsml problem"):
        find_artifact(there, "problem")
    m = make(here)
    assert list_kinds(there) == ["problem"] and list_artifacts(there, "problem") == [m] and below(there) == [], "what is only listed stays where it is"
    found = find_artifact(there, "problem")
    assert found == m and found.verify().read_json("sub/värde.json") == {} and below(there) == below(here)
    assert find_artifact(there, "problem", m.id[:-3]) == find_artifact(there, "problem", m.id) == m
    assert find_fresh("problem", there, {}) == m, "and the work is not done again"


def test_a_listed_artefact_comes_when_it_is_opened(machine):
    make(machine("here"))
    (m,) = list_artifacts(machine("there"), "problem")
    assert m.path("sub/värde.json").read_text() == "{}" and m.dir.is_dir()
    (m,) = list_artifacts(machine("elsewhere"), "problem")
    assert m.verify().dir.is_dir()


def test_the_newest_is_the_newest_wherever_it_was_made(machine):
    here, there = machine("here"), machine("there")
    first = make(here)
    time.sleep(1.1 - time.time() % 1)  # an id has seconds
    second = make(machine("there", "problem.gates.size_mb=1"))
    assert find_artifact(here, "problem") == second and find_artifact(there, "problem", first.id) == first
    assert [m.id for m in list_artifacts(here, "problem")] == [first.id, second.id]
    with pytest.raises(BadConfig, match="More than one"):
        find_artifact(machine("new"), "problem", "20")


def test_parents_come_too(machine):
    m = make(machine("here"), "dataset")
    assert find_parents(machine("there", "parents={dataset: latest}", stage="train")) == {"dataset": m}
    assert below(machine("there"), "dataset")


def test_without_a_remote_nothing_changes(machine, monkeypatch):
    make(machine("here"))
    monkeypatch.delenv("FSML_REMOTE_URL")
    cfg = machine("alone")
    assert cfg.storage.remote is None and list_artifacts(cfg, "problem") == []
    m = make(cfg, text="[]")
    assert find_artifact(cfg, "problem", m.id) == m


def test_a_half_upload_is_not_seen_and_goes_on(bucket, s3_machine):
    here, there = s3_machine("here"), s3_machine("there")
    m = make(here)
    key = f"far/problem/{m.id}"
    assert {o.key for o in bucket.objects.all()} == {f"{key}/{name}" for name in [*m.files, "manifest.json"]}
    bucket.Object(f"{key}/manifest.json").delete()
    bucket.Object(f"{key}/sub/värde.json").delete()
    assert list_artifacts(there, "problem") == []
    with pytest.raises(NotFound):
        find_artifact(there, "problem", m.id)
    sent = bucket.Object(f"{key}/empty").last_modified
    time.sleep(1.1)
    assert find_fresh("problem", here, {}) == m
    assert find_artifact(there, "problem").verify() == m
    assert bucket.Object(f"{key}/empty").last_modified == sent, "what was there is not sent again"


KILLED = """
import os, sys
from fullstack_ml.core import compose_cfg
from fullstack_ml.records import draft
with draft("problem", compose_cfg("problem", out=sys.argv[1]), {}) as d:
    for n in range(60): (d.dir / f"{n}.bin").write_bytes(os.urandom(50_000))
print("whole", flush=True)
"""


def test_killed_in_the_middle_of_an_upload(bucket, s3_machine, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "here")], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    while process.poll() is None and len(list(bucket.objects.all())) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == ""
    assert not [o for o in bucket.objects.all() if o.key.endswith("manifest.json")] and list_artifacts(s3_machine("there"), "problem") == []
    m = find_fresh("problem", s3_machine("here"), {})
    assert len(m.files) == 60 and m.verify(), "here it was whole already"
    assert find_artifact(s3_machine("there"), "problem").verify() == m


def test_a_damaged_file_of_the_remote_never_gets_a_final_name(bucket, s3_machine):
    there, m = s3_machine("there"), make(s3_machine("here"))
    thing = bucket.Object(f"far/problem/{m.id}/sub/värde.json")
    thing.put(Body=b"[]")
    for spoil in (lambda: thing.put(Body=b"[]"), thing.delete):
        spoil()
        with pytest.raises(Damaged, match=m.id):
            find_artifact(there, "problem")
        assert not (Path(there.storage.root) / "problem" / m.id).exists()
    thing.put(Body=b"{}")
    assert find_artifact(there, "problem").verify() == m and below(there) == below(s3_machine("here")), "nothing of the failures is left"


def test_a_manifest_of_the_remote_cannot_write_elsewhere(bucket, s3_machine, tmp_path):
    m = make(s3_machine("here"))
    body = (m.dir / "manifest.json").read_text()
    for name in ("../../../evil", f"{tmp_path}/evil"):
        bucket.Object(f"far/problem/{m.id}/manifest.json").put(Body=body.replace('"empty"', f'"{name}"').encode())
        bucket.Object(f"far/problem/{m.id}/{name}").put(Body=b"")
        with pytest.raises(Damaged):
            find_artifact(s3_machine("there"), "problem")
        assert not list(tmp_path.rglob("evil"))


def test_a_failed_upload_keeps_the_artefact_and_says_what_to_do(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("FSML_REMOTE_URL", "s3://fsml-no-such-bucket/far")
    cfg = compose_cfg("problem", out=str(tmp_path / "here"))
    with pytest.raises(Unavailable, match="storage.remote"):
        make(cfg)
    monkeypatch.setenv("FSML_REMOTE_URL", f"s3://{bucket.name}/far")
    cfg = compose_cfg("problem", out=str(tmp_path / "here"))
    (m,) = list_artifacts(cfg, "problem")
    assert not list(bucket.objects.all()) and find_fresh("problem", cfg, {}) == m.verify()
    assert find_artifact(compose_cfg("problem", out=str(tmp_path / "there")), "problem") == m


def test_an_artefact_that_is_here_needs_no_remote(tmp_path, monkeypatch):
    cfg = compose_cfg("problem", out=str(tmp_path))
    m = make(cfg)
    monkeypatch.setenv("FSML_REMOTE_URL", "nosuch://x")
    cfg = compose_cfg("problem", out=str(tmp_path))
    assert find_artifact(cfg, "problem", m.id) == m
    with pytest.raises(Unavailable, match="storage.remote"):
        find_artifact(cfg, "problem")


OPEN = """
import sys
from fullstack_ml.core import compose_cfg
from fullstack_ml.records import find_artifact
print(find_artifact(compose_cfg("problem", out=sys.argv[1]), "problem").verify().id)
"""


def test_processes_that_open_the_same_artefact_at_once(s3_machine, tmp_path):
    m = make(s3_machine("here"), text="x" * 3_000_000)
    command = [sys.executable, "-c", OPEN, str(tmp_path / "there")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    assert [p.communicate(timeout=60) for p in running] == [(f"{m.id}\n", "")] * 2
    assert below(s3_machine("there")) == below(s3_machine("here")), "one folder, and no lock or draft beside it"
