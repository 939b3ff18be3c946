"""
The direction of imports, as docs/explanation/architecture.md draws it: down only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.project import ROOT

LAYERS = (
    ("core",),
    ("spool.interface", "config"),
    ("net.tls", "net.dane_verify"),
    ("net", "net.protocol", "net.dns"),
    ("net.pool",),
    ("net.server", "net.router"),
    ("net.internet",),
    ("net.agent", "spool", "spool.sqlite", "spool.postgres", "client"),
    ("relay",),
    ("relay.service",),
    ("cli", "compat", "django", "plugin"),
)
"""
The rooms, lowest first. A module belongs to the longest name here that begins
its own. It imports from its own layer and from those below it.
"""

MEET_NET_AND_SPOOL = frozenset({"pymail_tx.relay.scheduler", "pymail_tx.relay.service", "pymail_tx.relay.policies"})
"""
The scheduler hands claims to the agent and outcomes to the spool; the composition root makes all three; and what
domains ask of TLS is kept in the spool.
"""

NAMES_REACTOR = frozenset({"pymail_tx.relay.service", "pymail_tx.cli.running"})
"""Everybody else is given one."""

OUTSIDE_CORE = frozenset(
    {"twisted", "zope", "OpenSSL", "socket", "ssl", "select", "selectors", "asyncio", "threading", "subprocess"}
    | {"time", "sched", "random", "secrets", "uuid", "logging", "os"}
)
"""I/O, clocks, randomness and logs: core decides without them."""

PLUGIN = ROOT / "twisted" / "plugins" / "pymail_tx_plugin.py"


@frozen
class Import:
    """
    One module naming another, wherever in the file.

    @ivar for_types: under C{if TYPE_CHECKING}, so not when the program runs.
    """

    importer: str
    imported: str
    line: int
    for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "pymail_tx").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found | ({"pymail_tx.plugin": PLUGIN} if PLUGIN.exists() else {})


MODULES = _modules()


def _imports(importer: str) -> Iterator[Import]:
    nodes = list(ast.walk(ast.parse(MODULES[importer].read_text())))
    guards = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    guarded = {id(node) for guard in guards for node in ast.walk(guard)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in node.names:
                imported = name.name if isinstance(node, ast.Import) else _source(importer, node, name.name)
                yield Import(importer, imported, node.lineno, id(node) in guarded)


def _source(importer: str, node: ast.ImportFrom, name: str) -> str:
    """The module that C{from … import name} gets the name from; of another project also C{module.name}."""
    package = ""
    if node.level:
        is_package = MODULES[importer].name == "__init__.py"
        above = importer.split(".")
        package = ".".join(above[: len(above) + is_package - node.level])
    module = ".".join(part for part in (package, node.module) if part)
    is_ours = module.split(".")[0] == "pymail_tx"
    return module if is_ours and f"{module}.{name}" not in MODULES else f"{module}.{name}"


IMPORTS = [one for importer in MODULES for one in _imports(importer)]
OURS = [one for one in IMPORTS if one.imported.split(".")[0] == "pymail_tx"]


def _room(module: str) -> str:
    name = module.removeprefix("pymail_tx.")
    rooms = [room for layer in LAYERS for room in layer if f"{name}.".startswith(f"{room}.")]
    return max(rooms, key=len, default="")


def _layer(module: str) -> int:
    return next(height for height, rooms in enumerate(LAYERS) if _room(module) in rooms)


def _loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if run.returncode:
        raise AssertionError(run.stderr)
    return set(run.stdout.split())


class Direction(SynchronousTestCase):
    def test_every_module_belongs_to_a_room(self) -> None:
        homeless = [module for module in MODULES if module != "pymail_tx" and not _room(module)]
        self.assertEqual(homeless, [], "give them a place in LAYERS and in docs/explanation/architecture.md")

    def test_imports_go_down_only(self) -> None:
        pairs = [one for one in OURS if "pymail_tx" not in (one.importer, one.imported)]
        upward = [str(one) for one in pairs if _layer(one.imported) > _layer(one.importer)]
        self.assertEqual(upward, [])

    def test_nobody_below_the_top_imports_the_facade(self) -> None:
        users = [str(one) for one in OURS if one.imported == "pymail_tx" and _layer(one.importer) < len(LAYERS) - 1]
        self.assertEqual(users, [])

    def test_no_import_goes_in_a_circle(self) -> None:
        running = [one for one in OURS if not one.for_types]
        needs = {module: {one.imported for one in running if one.importer == module} for module in MODULES}
        circle = set(needs)
        while inside := {one for one in circle if needs[one] & circle and any(one in needs[other] for other in circle)}:
            if inside == circle:
                break
            circle = inside
        self.assertEqual(sorted(inside), [])

    def test_net_and_spool_meet_in_the_scheduler_and_the_composition_root_only(self) -> None:
        rooms = {
            module: {_room(one.imported).split(".")[0] for one in OURS if one.importer == module} for module in MODULES
        }
        for module, imported in rooms.items():
            own = {_room(module).split(".")[0]}
            if {"net", "spool"} <= imported | own:
                self.assertIn(module, MEET_NET_AND_SPOOL)

    def test_core_knows_no_io_clock_randomness_or_log(self) -> None:
        from_core = [one for one in IMPORTS if _room(one.importer) == "core"]
        self.assertEqual([str(one) for one in from_core if one.imported.split(".")[0] in OUTSIDE_CORE], [])

    def test_the_reactor_is_named_in_the_composition_root_and_the_command_line_only(self) -> None:
        named = [one for one in IMPORTS if one.imported.startswith("twisted.internet.reactor")]
        self.assertEqual([str(one) for one in named if one.importer not in NAMES_REACTOR], [])


class Weight(SynchronousTestCase):
    timeout = 120

    def test_the_facade_alone_loads_nothing_of_the_package(self) -> None:
        self.assertEqual({name for name in _loaded_by("import pymail_tx") if name.startswith("pymail_tx.")}, set())

    def test_the_blocking_session_loads_neither_reactor_nor_openssl(self) -> None:
        loaded = _loaded_by("import pymail_tx.client")
        heavy = {"twisted.internet.reactor", "OpenSSL", "cryptography", "service_identity", "sqlite3", "hmac"}
        self.assertEqual(loaded & heavy, set())
