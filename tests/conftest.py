"""What several tests need: artefacts in a folder of their own, and databases where they answer."""
import contextlib
import os
import socket
import sys
import uuid
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["WANDB_MODE"] = "offline"  # a test never talks to wandb's server
os.environ.pop("WANDB_API_KEY", None)
for name in ("FSML_HOME", "FSML_CONF", "FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL", "FSML_DEBUG"):
    os.environ.pop(name, None)
# Children find the commands of this environment, activated or not.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project: relative paths of a configuration start here."""
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage of its own for one test, for this process and for its children; everything else is the checkout's."""
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test runs in an empty folder that is not the checkout."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def answers(port: int) -> bool:
    """Does something listen on loopback?"""
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


SERVERS = {  # where a server usually listens, and how to get in without a secret
    "mysql": (3306, os.environ.get("FSML_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/")),
    "postgresql": (5432, os.environ.get("FSML_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")),
}


@contextlib.contextmanager
def empty_database(system: str, folder: Path):
    """The address of an empty database of a system, if it answers; it is dropped afterwards."""
    if system == "sqlite":
        yield f"sqlite:///{folder}/test.db"
        return
    import sqlalchemy as sa

    port, server = SERVERS[system]
    if not answers(port):
        pytest.skip(f"no {system} answers on 127.0.0.1:{port}")
    name, engine = f"fsml_test_{uuid.uuid4().hex[:10]}", sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as c:
            c.exec_driver_sql(f"CREATE DATABASE {name}")
    except sa.exc.DBAPIError as e:
        pytest.skip(f"{system} lets nobody in without a password: {type(e.orig).__name__}")
    yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as c:
        c.exec_driver_sql(f"DROP DATABASE {name}" + (" WITH (FORCE)" if system == "postgresql" else ""))
    engine.dispose()


@pytest.fixture(params=["sqlite", *SERVERS])
def database_url(request: pytest.FixtureRequest, tmp_path: Path):
    """The address of an empty database of each system that answers; it is dropped afterwards."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The same for all tests of a file, which empty it themselves: to make tables takes a server longer than most tests."""
    with empty_database(request.param, tmp_path_factory.mktemp("shared")) as url:
        yield url


@pytest.fixture
def lite(tmp_path: Path):
    """SQLite alone: where no two come at once, one database tells as much as three."""
    from fullstack_ml.records import open_database

    db = open_database(f"sqlite:///{tmp_path}/lite.db")
    yield db
    db.engine.dispose()
