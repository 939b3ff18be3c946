"""
What is installed works: twistd finds the relay from a wheel, from an editable install and from the checkout, and
the command line is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.project import ROOT

PARTS_OF_A_BUILD = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pymail_tx", "twisted")

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))


def _run(*words: str | Path, cwd: Path, **variables: str) -> str:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")} | variables
    run = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)
    if run.returncode:
        raise AssertionError(f"{words}: exit status {run.returncode}\n{run.stdout}{run.stderr}")
    return run.stdout


class Wheel(SynchronousTestCase):
    timeout = 600

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wheel-of-a-test-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def test_twistd_lists_the_relay_after_an_install_from_the_wheel(self) -> None:
        python = self.environment()
        self.assertNotIn("pymail-tx", self.twistd_commands(python, cwd=self.directory))
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
        _run(*pip, self.wheel(), cwd=self.directory)
        self.assertIn("pymail-tx", self.twistd_commands(python, cwd=self.directory))
        where = _run(python, "-c", "import pymail_tx.core as core; print(core.__file__)", cwd=self.directory)
        self.assertTrue(where.startswith(str(python.parents[1])), where)

    def test_the_command_line_is_there_after_an_install_from_the_wheel(self) -> None:
        python = self.environment()
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
        _run(*pip, self.wheel(), cwd=self.directory)
        said = _run(python.with_name("pymail-tx"), "--help", cwd=self.directory)
        self.assertRegex(said, r"(?s)\n  send .*\n  sink ")
        self.assertRegex(_run(python.with_name("pymail-tx"), "--version", cwd=self.directory), r"\Apymail-tx \d")

    def test_twistd_lists_the_relay_from_the_checkout(self) -> None:
        self.assertIn("pymail-tx", self.twistd_commands(self.environment(), cwd=self.directory, PYTHONPATH=str(ROOT)))

    def test_twistd_lists_the_relay_from_an_editable_install(self) -> None:
        self.assertIn("pymail-tx", self.twistd_commands(Path(sys.executable), cwd=self.directory))

    def test_the_wheel_holds_every_source_query_and_marker_and_nothing_else(self) -> None:
        names = set(zipfile.ZipFile(self.wheel()).namelist())
        kinds = {".py", ".sql", ".typed"}
        sources = [path for folder in ("pymail_tx", "twisted") for path in (ROOT / folder).rglob("*")]
        wanted = {str(path.relative_to(ROOT)) for path in sources if path.suffix in kinds}
        self.assertEqual({name for name in names if ".dist-info/" not in name}, wanted)

    def wheel(self) -> Path:
        """Build it from a copy, so that the checkout keeps clean and nothing but the listed parts is needed."""
        source = self.directory / "source"
        source.mkdir()
        for part in PARTS_OF_A_BUILD:
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache")
                )
            else:
                shutil.copy(ROOT / part, source)
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
        _run(*pip, "--wheel-dir", self.directory, source, cwd=self.directory)
        (wheel,) = self.directory.glob("*.whl")
        return wheel

    def environment(self) -> Path:
        """
        The Python of a new environment with all that pymail-tx needs and not pymail-tx: a path in a .pth file
        has its own .pth files left unread, the editable install's among them.
        """
        where = self.directory / "environment"
        venv.create(where, symlinks=True)
        python = where / "bin" / "python"
        purelib = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=self.directory)
        (Path(purelib.strip()) / "dependencies.pth").write_text(f"{SITE_PACKAGES}\n")
        return python

    def twistd_commands(self, python: Path, *, cwd: Path, **variables: str) -> list[str]:
        """What C{twistd --help} lists there."""
        said = _run(python, Path(sysconfig.get_path("scripts")) / "twistd", "--help", cwd=cwd, **variables)
        return re.findall(r"^    (\S+)", said.partition("\nCommands:\n")[2], re.MULTILINE)
