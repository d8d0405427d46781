"""A PostgreSQL server of the tests' own, on a socket in a temporary folder."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path


def binaries():
    """The folder of initdb and pg_ctl, the newest one, or None."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    found.sort(key=lambda path: float(path.split("/")[4]))
    where = shutil.which("initdb") or (found[-1] if found else None)
    return Path(where).resolve().parent if where else None


class Server:
    """Starts with the first database that is asked for."""

    def __init__(self):
        self.folder = None

    def missing(self):
        """Why there can be no server, or None."""
        if binaries() is None:
            return "PostgreSQL is not installed (apt-get install postgresql)"
        try:
            import psycopg  # noqa: F401
        except ImportError:
            return "psycopg is not installed (pip install 'braidbandit[postgres]')"
        if os.getuid() == 0:
            try:
                pwd.getpwnam("postgres")
            except KeyError:
                return "PostgreSQL refuses root, and there is no user 'postgres'"
        return None

    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N")
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")

    def url(self):
        """The URL of an empty schema."""
        if self.folder is None:
            self.start()
        name = f"t{uuid.uuid4().hex[:12]}"
        psql = ["psql", "-h", str(self.folder), "-U", "postgres", "-q"]
        self._run(*psql, "-c", f"CREATE SCHEMA {name}")
        return (
            f"postgresql+psycopg://postgres@/postgres?host={self.folder}"
            f"&options=-csearch_path%3D{name}"
        )

    def stop(self):
        if self.folder is not None:
            data = str(self.folder / "data")
            self._run("pg_ctl", "-D", data, "-m", "immediate", "stop")
            shutil.rmtree(self.folder)

    def _run(self, name, *arguments):
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*user, str(binaries() / name), *arguments]
        # Output goes to a file: the server keeps it open, and a pipe would never end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, cwd="/", check=False
            )
            output.seek(0)
            if done.returncode:
                raise RuntimeError(f"{name} failed: {output.read()}")
