"""The built bento over HTTP: right answers, wrong input, memory, what is in it."""
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest
import yaml

from fullstack_ml.archive import Archive
from fullstack_ml.core import Unavailable, checkout
from fullstack_ml.records import label_to_dict
from fullstack_ml.release import lay_out, open_release
from fullstack_ml.serve import BENTO, Settings, build_bento, serving
from release_fixture import make_release_fixture

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_release_fixture(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def home(made):
    return made.sample.parent / "bentos"


@pytest.fixture(scope="module")
def url(made, home):
    started = time.monotonic()
    tag = build_bento(made.sample, home)
    built = time.monotonic()
    with serving(tag, home=home) as address:
        print(f"built in {built - started:.1f} s, started in {time.monotonic() - built:.1f} s")
        assert time.monotonic() - built < 10
        yield address


@pytest.fixture(scope="module")
def bodies(made):
    return [item.data for item, _ in made.pairs]


def processes():
    """Those of the service, which are descendants of this one."""
    return [p for p in psutil.Process().children(recursive=True) if p.is_running() and "bentoml" in " ".join(p.cmdline())]


def resident_mb():
    return sum(int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{p.pid}/status").read_text())[1]) for p in processes()) / 1024


def huge_png(side):
    """A valid picture of one bit a pixel, all black."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack, row = zlib.compressobj(1), bytes(1 + (side + 7) // 8)
    data = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def endless(megabytes):
    for _ in range(megabytes):
        yield bytes(1 << 20)


def form(name, data, file="a.png", type="image/png"):
    return {"files": {name: (file, data, type)}}


BAD = {
    "text in place of a picture": (lambda b: dict(content=b"hello, this is text", headers=PNG), 415, "no picture"),
    "text as text": (lambda b: dict(content=b"hello", headers={"content-type": "text/plain"}), 415, "image/png"),
    "unsupported type": (lambda b: dict(content=b"GIF89a...", headers={"content-type": "image/gif"}), 415, "image/png"),
    "json": (lambda b: dict(json={"image": "aGVsbG8="}), 415, "image/png"),
    "no type": (lambda b: dict(content=b"hello"), 415, "no picture"),
    "empty body": (lambda b: dict(content=b"", headers=PNG), 422, "empty"),
    "empty file": (lambda b: form("file", b""), 422, "empty"),
    "truncated": (lambda b: dict(content=b[: len(b) // 2], headers=PNG), 422, "cut short"),
    "truncated header": (lambda b: dict(content=b[:12], headers=PNG), 415, "no picture"),
    "20,000 x 20,000": (lambda b: dict(content=huge_png(20_000), headers=PNG), 413, "too many pixels"),
    "200 MB": (lambda b: dict(content=endless(200), headers={**PNG, "content-length": str(200 << 20)}), 413, "200.0 MB"),
    "200 MB of unknown length": (lambda b: dict(content=endless(200), headers=PNG), 413, "more than 8 MB"),
    "200 MB in a form": (lambda b: form("file", endless_file(200)), 413, "MB"),
    "wrong field": (lambda b: form("image", b), 422, "its fields are: image"),
    "field without a file": (lambda b: dict(data={"file": "x"}, files={"other": ("a", b"")}), 422, "no file"),
    "two files to one": (lambda b: dict(files=[("file", ("a.png", b)), ("file", ("b.png", b))]), 413, "/predict/batch"),
    "no boundary": (lambda b: dict(content=b"x", headers={"content-type": "multipart/form-data"}), 422, "boundary"),
    "broken form": (lambda b: dict(content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"}), 422, "form"),
    "pickle": (lambda b: dict(content=b"\x80\x04\x95", headers={"content-type": "application/vnd.bentoml+pickle"}), 415, "image/png"),
}


def endless_file(megabytes):
    class File(io.RawIOBase):
        left = megabytes << 20

        def readable(self):
            return True

        def read(self, n=-1):
            n = min(self.left, n if n > 0 else 1 << 20)
            self.left -= n
            return bytes(n)

    return File()


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_gets_a_4xx_at_once_and_no_memory(url, bodies, bad):
    make, status, words = BAD[bad]
    request = make(bodies[0])
    httpx.post(f"{url}/predict", content=bodies[0], headers=PNG)
    before, started = resident_mb(), time.monotonic()
    answer = httpx.post(f"{url}/predict", timeout=10, **request)
    seconds, grown = time.monotonic() - started, resident_mb() - before
    print(f"{bad}: {answer.status_code} in {1000 * seconds:.0f} ms, {grown:+.1f} MB: {answer.json()['message']}")
    assert answer.status_code == status and words in answer.json()["message"]
    assert set(answer.json()) == {"error", "message"} and answer.headers["x-request-id"] and answer.headers["x-release-id"]
    assert seconds < (2.5 if "200 MB" in bad else 1) and grown < 30
    assert httpx.post(f"{url}/predict", content=bodies[0], headers=PNG).status_code == 200


def test_a_declared_giant_is_answered_before_it_is_sent(url):
    """The whole answer is there although the client has sent only headers."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as s:
        started = time.monotonic()
        s.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 209715200\r\n\r\n")
        head = s.recv(4096)
        assert b"413" in head.splitlines()[0] and b"connection: close" in head.lower() and time.monotonic() - started < 0.5
        while s.recv(4096):
            pass
        assert time.monotonic() - started < 3  # the server closes although we never sent the body


def test_right_answers_in_every_form(url, made, bodies):
    opened = open_release(made.sample)
    for item, label in made.pairs[:6]:
        raw = httpx.post(f"{url}/predict", content=item.data, headers={**PNG, "x-request-id": "mine-7"})
        assert raw.status_code == 200 and raw.json()["label"] == json.loads(json.dumps(label_to_dict(label)))
        assert raw.headers["x-request-id"] == "mine-7" and raw.headers["x-variant"] == "float" and raw.headers["x-release-id"] == opened.id == raw.json()["release"]
        assert httpx.post(f"{url}/predict", **form("file", item.data)).json() == raw.json()
        assert httpx.post(f"{url}/predict", files={"file": ("a.png", item.data, "application/octet-stream")}).json() == raw.json()
    jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(bodies[0], np.uint8), cv2.IMREAD_GRAYSCALE))[1].tobytes()
    assert httpx.post(f"{url}/predict", content=jpeg, headers={"content-type": "image/jpeg"}).json()["label"] == {"kind": "choice", "names": ["one"]}
    assert httpx.post(f"{url}/predict", content=bodies[0], headers={**PNG, "x-request-id": "bad id\tof mine"}).headers["x-request-id"] != "bad id\tof mine"


def test_in_a_batch_one_bad_item_fails_alone(url, made):
    files = [("file", (f"{n}.png", item.data, "image/png")) for n, (item, _) in enumerate(made.pairs[:8])]
    files[3] = ("file", ("3.png", files[3][1][1][:200], "image/png"))
    files[5] = ("file", ("5.txt", b"hello", "text/plain"))
    answer = httpx.post(f"{url}/predict/batch", files=files)
    results = answer.json()["results"]
    assert answer.status_code == 200 and [r["status"] for r in results] == [200, 200, 200, 422, 200, 415, 200, 200]
    assert [r["name"] for r in results] == [f[1][0] for f in files]
    for r, (_, label) in zip(results, made.pairs):
        assert r["status"] != 200 or r["label"]["names"] == list(label.names)
    assert "cut short" in results[3]["message"]
    assert httpx.post(f"{url}/predict/batch", files=[("file", ("a.png", b"x"))] * 65).status_code == 413
    assert httpx.post(f"{url}/predict/batch", files=[("image", ("a.png", b"x"))]).status_code == 422
    assert httpx.post(f"{url}/predict/batch", content=b"x", headers=PNG).status_code == 415


def test_16_clients_get_their_own_answers(url, made):
    opened = open_release(made.sample)
    wanted = {item.id: p for (item, _), p in zip(made.pairs, opened.predict([i for i, _ in made.pairs]))}

    def client(n):
        with httpx.Client() as http:
            for k in range(25):
                item = made.pairs[(n + k) % len(made.pairs)][0]
                answer = http.post(f"{url}/predict", content=item.data, headers=PNG)
                assert answer.status_code == 200, answer.text
                assert answer.json()["label"]["names"] == list(wanted[item.id].label.names)
                assert abs(answer.json()["confidence"] - wanted[item.id].confidence) < 1e-4
        return k + 1

    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        n = sum(pool.map(client, range(16)))
    print(f"{n / (time.monotonic() - started):.0f} requests/s with 16 clients beside the service")
    text = httpx.get(f"{url}/metrics").text
    batches, items = (float(re.search(rf"^fsml_batch_size_{k} (\S+)", text, re.M)[1]) for k in ("count", "sum"))
    assert items > batches  # requests that came together went through the graph together


def test_info_and_health(url, made):
    told = httpx.get(f"{url}/info").json()
    assert told["labels"] == ["one", "two", "three"] and told["task"]["name"] == "ImageClassification" and told["variant"] == "float"
    assert told["release"] == httpx.get(f"{url}/livez").headers.get("x-release-id", told["release"])
    assert httpx.get(f"{url}/livez").status_code == httpx.get(f"{url}/readyz").status_code == 200
    (made.sample.parent / "picture.png").write_bytes(made.pairs[1][0].data)
    said = subprocess.run(told["example"], shell=True, cwd=made.sample.parent, capture_output=True, text=True).stdout
    assert json.loads(said)["label"]["names"] == ["two"]  # the example that /info prints works as it stands
    for n in range(50):
        httpx.get(f"{url}/nosuch{n}")
    text = httpx.get(f"{url}/metrics").text
    assert 'fsml_requests_total{route="other",status="404"}' in text and "nosuch" not in text
    for answer, status in [(httpx.get(f"{url}/predict"), 405), (httpx.delete(f"{url}/info"), 405), (httpx.post(f"{url}/nosuch", content=b"x"), 404), (httpx.get(f"{url}/"), 404)]:
        assert answer.status_code == status and set(answer.json()) == {"error", "message"} and "/predict" in answer.json()["message"]


def test_the_service_has_neither_torch_nor_much_memory(url):
    found = processes()
    assert found and all("libtorch" not in Path(f"/proc/{p.pid}/maps").read_text() for p in found)
    print("memory of the service:", [(p.cmdline()[2], round(p.memory_info().rss / 2**20)) for p in found], "MB")
    assert max(p.memory_info().rss for p in found) < 400 << 20


def test_only_loopback(url):
    listening = {c.laddr.ip for p in processes() for c in p.net_connections() if c.status == psutil.CONN_LISTEN and c.laddr.port > 1024}
    assert listening == {"127.0.0.1"}


def test_the_module_imports_neither_torch_nor_timm(made):
    code = "import sys; import fullstack_ml.serve as s; from fullstack_ml.release import open_release; r = open_release(sys.argv[1]); r.predict([i for i, _ in r.task.sample(2)]); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, str(made.sample)], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "timm", "torchvision", "sklearn", "hydra", "sqlalchemy", "pandas", "matplotlib"} & set(out)


def test_the_bento_runs_its_own_code_and_holds_nothing_else(made, home, url):
    src = next((home / "bentos" / BENTO).glob("*/src"))
    found = {p.relative_to(src).as_posix() for p in src.rglob("*") if p.is_file() and p.suffix != ".pyc"}  # compiled when it ran
    with Archive(made.sample) as archive:
        code = {n.removeprefix("code/") for n in archive.files if n.startswith("code/")}
    assert found == code | {"bentofile.yaml"} | {f"artifacts/bento/{n}" for n in ("release.zip", "requirements.txt", "MODEL_CARD.md")}
    program = f"import sys; from _bentoml_impl.loader import load; load('{BENTO}:{src.parent.name}', standalone_load=True); print(sys.modules['fullstack_ml.serve'].__file__)"
    out = subprocess.run([sys.executable, "-c", program], env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}, capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == str(src / "fullstack_ml" / "serve.py")


@pytest.mark.skipif(not checkout(), reason="bentofile.yaml is part of the checkout")
def test_bentofile_lists_what_serving_loads(made, tmp_path):
    """`bentoml build` at the root packs the same code that a release carries."""
    lay_out(made.sample, tmp_path / "artifacts" / "bento")
    told = yaml.safe_load((checkout() / "bentofile.yaml").read_text())
    listed = {p.relative_to(checkout()).as_posix() for pattern in told["include"] for p in checkout().glob(pattern) if p.suffix == ".py"}
    with Archive(made.sample) as archive:
        code = {n.removeprefix("code/") for n in archive.files if n.startswith("code/")}
    assert code <= listed and {n for n in listed - code} <= {p.relative_to(checkout()).as_posix() for p in checkout().glob("fullstack_ml/tasks/*.py")}
    for name in ("bentofile.yaml", *listed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((checkout() / name).read_bytes())
    for name in ("nbs/a.ipynb", "artifacts/train/x/model.safetensors", "fullstack_ml/train.py"):  # what must stay out
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    env = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run([sys.executable, "-m", "bentoml", "build"], cwd=tmp_path, env=env, check=True, capture_output=True)
    src = next((tmp_path / "home" / "bentos" / BENTO).glob("*/src"))
    packed = {p.relative_to(src).as_posix() for p in src.rglob("*") if p.is_file()}
    assert packed == listed | {"bentofile.yaml", "artifacts/bento/release.zip", "artifacts/bento/requirements.txt"}


def test_a_release_that_does_not_open_does_not_start(made, tmp_path):
    (tmp_path / "bad.zip").write_bytes(made.sample.read_bytes()[:-500])
    before = processes()
    with pytest.raises(Unavailable, match="cut short"):
        with serving(tmp_path / "bad.zip"):
            pass
    assert len(processes()) == len(before)


def test_limits_hold_and_requests_in_progress_are_finished(made):
    """A full house answers 503 before reading; a slow body gets 408; a stop waits for those who were let in."""
    settings = Settings(max_requests=2, body_seconds=1.0, max_wait_ms=1500)
    body = made.pairs[0][0].data
    with ThreadPoolExecutor(4) as pool:
        with serving(made.sample, settings=settings) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=5) as s:
                s.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100\r\n\r\nabc")
                time.sleep(0.2)
                pending = pool.submit(httpx.post, f"{url}/predict", content=body, headers=PNG)
                time.sleep(0.3)
                full = httpx.post(f"{url}/predict", content=body, headers=PNG)
                assert full.status_code == 503 and full.headers["retry-after"] == "1"
                assert b"408" in s.recv(4096).splitlines()[0]
            assert pending.result().status_code == 200
            pending = pool.submit(httpx.post, f"{url}/predict", content=body, headers=PNG)
            time.sleep(0.4)
        assert pending.result().status_code == 200  # the server was asked to stop while this one waited


def test_the_stage_prints_an_address_that_works_and_leaves(made):
    from fullstack_ml.release import release

    release(made.cfg)
    root = str(made.parents["train"].dir.parents[1])
    program = f"from fullstack_ml.core import compose_cfg; from fullstack_ml.serve import serve; serve(compose_cfg('serve', ['port=0'], out={root!r}))"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    said = child.stdout.readline()
    address = re.search(r"http://127.0.0.1:\d+", said)[0]
    assert httpx.get(f"{address}/info").json()["variant"] == "int8"
    servers = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0 and "finishing" in child.stdout.read()
    assert not [p for p in servers if p.is_running()]


def test_a_port_that_is_taken_is_told_at_once(made):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(Unavailable, match="port"), serving(made.sample, port=s.getsockname()[1]):
            pass


def test_a_server_does_not_outlive_who_started_it(made):
    program = "import sys, time; from pathlib import Path; from fullstack_ml.serve import serving\nwith serving(Path(sys.argv[1])) as url: print(url, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program, str(made.sample)], stdout=subprocess.PIPE, text=True)
    url = parent.stdout.readline().strip()
    assert httpx.get(f"{url}/livez").status_code == 200
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            httpx.get(f"{url}/livez", timeout=2)
        except httpx.TransportError:
            return
        time.sleep(0.1)
    raise AssertionError("the server is still there")


def test_what_a_bento_asks_for_can_be_installed(made):
    with Archive(made.sample) as archive:
        asked = archive.read("requirements.txt").decode()
    assert "fullstack_ml" not in asked and "fullstack-ml" not in asked and "onnxruntime==" in asked
