"""What is built to be published is whole."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest
from processes import ROOT
from waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def package_files() -> set[str]:
    """The files of the package in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "provider"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    return set(listed.stdout.splitlines())


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in package_files() if not name.startswith("provider/ui/frontend/")}
    assert {"provider/ui/built/index.html", "provider/ui/built/page.js"} <= names
    assert "provider/py.typed" in names


def test_the_wheel_has_the_command_the_backends_the_licence_and_readme(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        about = {PurePosixPath(name).name: archive.read(name) for name in archive.namelist() if ".dist-info/" in name}
    assert b"emb-provider = provider.cli:main" in about["entry_points.txt"]
    assert b"torch = provider.backends.torch.backend:TorchBackend" in about["entry_points.txt"]
    assert about["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    metadata = message_from_bytes(about["METADATA"])
    assert str(metadata.get_payload()).startswith("# emb-provider")
    assert set(metadata.get_all("Provides-Extra", [])) >= {"minilm", "parquet", "plots"}


def test_the_source_distribution_has_the_package_its_tests_and_its_configuration(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= package_files() | {"litestar.yaml", "constraints.txt", "CHANGELOG.md", "LICENSE", "pyproject.toml"}
