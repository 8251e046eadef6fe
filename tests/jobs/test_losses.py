"""What the job does about files that are damaged, and disks that are full."""

import shutil
import subprocess
from pathlib import Path

import ensemble
import pytest

from bebert_ray.cli.common import run_job

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
MEMBERS = ("000", "001")


@pytest.fixture(scope="module")
def job():
    """Runs the job in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield lambda *arguments: run_job(lambda: ensemble.main([str(each) for each in arguments]))


@pytest.fixture(scope="module")
def pipelined(tiny_run):
    """Overrides of a tiny run with rounds."""
    return [*tiny_run, "ensemble.schedule=pipelined", "member.epochs=2"]


@pytest.fixture(scope="module")
def _once(job, pipelined, tmp_path_factory):
    output = tmp_path_factory.mktemp("losses") / "run"
    assert job(*pipelined, f"output={output}") == 0
    return output


@pytest.fixture
def finished(_once, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(_once, tmp_path / "run", copy_function=shutil.copy2))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def made(output):
    """When each artifact was made, checkpoints aside."""
    records = (path for path in output.rglob("artifact.json") if "checkpoints" not in path.parts)
    return {path.parent.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in records}


def test_what_is_damaged_is_named_and_made_again_and_nothing_else(
    job, pipelined, finished, _once, capfd
):
    flip(finished / "half" / "logits.safetensors")
    truncate(finished / "members" / "001" / "model.safetensors")
    flip(finished / "members" / "000-round-0" / "artifact.json")
    flip(finished / "weights" / "000.npy")
    truncate(finished / "weights" / "001.npy")
    before = made(finished)

    assert job(*pipelined, f"output={finished}") == 0
    told = capfd.readouterr().err
    assert f"{finished / 'half'} is damaged: logits.safetensors" in told
    assert f"{finished / 'members/001'} is damaged: model.safetensors" in told
    assert f"{finished / 'members/000-round-0'} is damaged: artifact.json" in told
    assert "member 000: weights/000.npy was damaged; written anew" in told
    after = made(finished)
    assert {name for name in after if after[name] != before.get(name)} == {
        *("half", "members/001", "members/000-round-0")
    }
    files = [f"{name}/logits.safetensors" for name in ("half", "members/000-round-0")]
    files += [f"members/{member}/model.safetensors" for member in MEMBERS]
    files += [f"weights/{member}.npy" for member in MEMBERS]
    for file in files:
        assert (finished / file).read_bytes() == (_once / file).read_bytes(), file


def test_damaged_results_and_settings_are_named_and_their_loss_is_no_loss(
    job, pipelined, finished, capfd
):
    before = made(finished)
    flip(finished / "config.yaml")
    assert job(*pipelined, f"output={finished}") == 2
    assert f"{finished / 'config.yaml'} is damaged" in capfd.readouterr().err

    (finished / "config.yaml").unlink()
    truncate(finished / "results.json")
    assert job(*pipelined, f"output={finished}") == 0
    message = "results.json was not what the run's artifacts say; written anew"
    assert message in capfd.readouterr().out
    assert made(finished) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, that `mount` can enlarge."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", disk]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if shutil.which("mount") is None or not mount("size=900k"):
        pytest.skip("only root can make a small disk")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_of_and_once_there_is_room_the_run_goes_on(
    job, pipelined, small_disk, _once, capfd
):
    disk, mount = small_disk
    assert job(*pipelined, f"output={disk / 'run'}") == 1
    error = capfd.readouterr().err
    assert "No space left on device" in error.splitlines()[-1]
    assert "Make room" in error.splitlines()[-1]
    assert "Traceback" not in error
    kept = made(disk / "run")

    assert mount("remount", "size=20m")
    assert job(*pipelined, f"output={disk / 'run'}") == 0
    after = made(disk / "run")
    assert {name: after[name] for name in kept} == kept
    for member in MEMBERS:
        file = f"members/{member}/model.safetensors"
        assert (disk / "run" / file).read_bytes() == (_once / file).read_bytes()
