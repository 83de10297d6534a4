"""A run on this machine: its processes listen on the loopback interface only, and show no credentials anywhere."""

import ipaddress
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.ray

SECRETS = {"AWS_SECRET_ACCESS_KEY": "secret-of-the-torture-suite", "AWS_SESSION_TOKEN": "token-of-the-torture-suite"}


@pytest.fixture
def ray_folder():
    """A place for Ray's session; the names of its sockets leave no room for a longer path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield Path(folder)


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or bool(getattr(parsed, "ipv4_mapped", None) and parsed.ipv4_mapped.is_loopback)


def titles_and_addresses(driver: psutil.Process) -> tuple[set[str], set[tuple[str, str]]]:
    """Command lines of a process and all it started, and the addresses that they listen at, with who does."""
    titles: set[str] = set()
    addresses: set[tuple[str, str]] = set()
    with suppress(psutil.NoSuchProcess):
        for process in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                titles.add(title)
                addresses |= {
                    (connection.laddr.ip, title)
                    for connection in process.net_connections(kind="tcp")
                    if connection.status == psutil.CONN_LISTEN
                }
    return titles, addresses


def files_with(folder: Path, secret: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_credentials_are_nowhere_and_ports_are_of_this_machine(s3_bucket, ray_folder, tmp_path):
    for number in range(24):
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number * 10, 255 - number * 10, 128)).save(folder / f"{number}.png")
        s3_bucket.put(f"photos/{number}.png", (folder / f"{number}.png").read_bytes())
    s3_bucket.put("photos/broken.png", b"no image")
    s3_bucket.put("nouns.txt", b"sky\ngrass\nsea\nfire\n")
    values = {
        "run_dir": f"{s3_bucket.uri}/run",
        "source": {"uri": f"{s3_bucket.uri}/photos"},
        "encoder": {"kind": "offline"},
        "vocabulary": {"kind": "file", "uri": f"{s3_bucket.uri}/nouns.txt"},
        "num_clusters": 3,
        "method": {"name": "dxmc", "num_epochs": 2, "batch_size": 8},
        "resources": {"train_workers": 2},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    log = tmp_path / "log"
    titles: set[str] = set()
    addresses: set[tuple[str, str]] = set()
    with log.open("w") as output:
        driver = psutil.Popen(
            [sys.executable, "-m", "ray_jobs.cli", "run", "--config", str(config)],
            env={**environment, **SECRETS, "RAY_TMPDIR": str(ray_folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while driver.poll() is None:
            found = titles_and_addresses(driver)
            titles |= found[0]
            addresses |= found[1]
            time.sleep(0.2)
    printed = log.read_text()
    assert driver.returncode == 0, printed
    assert any(title.startswith("ray::RayTrainWorker") for title in titles)
    assert addresses
    assert {found for found in addresses if not is_loopback(found[0])} == set()
    objects = s3_bucket.client.list_objects_v2(Bucket=s3_bucket.name, Prefix="run/")["Contents"]
    stored = [s3_bucket.client.get_object(Bucket=s3_bucket.name, Key=item["Key"])["Body"].read() for item in objects]
    assert len(stored) > 10
    for secret in SECRETS.values():
        assert secret not in printed
        assert not [title for title in titles if secret in title]
        assert not [data for data in stored if secret.encode() in data]
        assert files_with(ray_folder, secret) == []
