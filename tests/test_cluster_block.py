"""The commands of docs/cluster.md, as they are there, on a machine that has never run Ray.

`ray stop` ends every Ray of its user's, and the commands use Ray's own ports. So they run among
processes, ports and temporary files of their own (Linux namespaces), where there are no others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALONE = ("unshare", "--map-root-user", "--net", "--pid", "--mount", "--fork", "--mount-proc")
# Loopback is down in a new network namespace.
LOOPBACK_UP = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, " + (
    "struct.pack('16sh', b'lo', 65).ljust(40, b'\\0'))"
)

# Names of sockets must be short, so Ray's files cannot be below pytest's directories.
_OWN_TMP = 'export RAY_TMPDIR="$(mktemp -d /tmp/bbr-XXXX)"; trap \'rm -rf "$RAY_TMPDIR"\' EXIT'


def test_the_readme_and_the_page_have_the_same_commands() -> None:
    block = _block()
    assert "ray get-auth-token --generate" in block and "ray start --head" in block
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in commands[1:4]:
        assert command in readme


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_the_block_runs_as_it_is_in_a_clean_home(tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], check=False).returncode:
        pytest.skip("needs Linux namespaces: `ray stop` would end every other Ray of this user's")
    home, clone, tools = (tmp_path / name for name in ("home", "clone", "tools"))
    for directory in (home, clone, tools):
        directory.mkdir()
    for name in ("bebert_ray", "jobs", "configs", "pyproject.toml", ".gitignore"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, clone / name)
    # The packages are there: what is installed is only noted.
    (tools / "pip").write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/installed'\n")
    (tools / "pip").chmod(0o755)
    script = "\n".join(
        [
            "set -e",
            "mount -t tmpfs tmpfs /dev/shm",  # Ray's store of objects
            f'{sys.executable} -c "{LOOPBACK_UP}"',
            *(f"unset {name}" for name in os.environ if name.startswith(("RAY_", "XDG_"))),
            f"export HOME='{home}' HF_HUB_OFFLINE=1",
            _OWN_TMP,
            f"cd '{clone}'",
            _block(),
        ]
    )
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}
    done = subprocess.run(
        [*ALONE, "bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "installed").read_text() == "install torch==2.13.0 -e .[demo]\n"
    assert (home / ".ray" / "auth_token").is_file()
    results = json.loads((home / "runs" / "quickstart" / "results.json").read_text())
    assert results["ensemble"]


def _block() -> str:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    block = re.search(r"^```bash\n(.*?)^```", page, re.S | re.M)
    assert block is not None
    return block[1]
