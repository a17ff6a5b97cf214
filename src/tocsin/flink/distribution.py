"""Flink as pip installs it: where it is, and the jar of what is Java here, compiled against it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tocsin.errors import ConfigError, MissingExtra

SOURCES = Path(__file__).parent / "java"
BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For a JVM that has nothing to compute for long: to compile its methods well costs more than it brings."""


def flink_home() -> Path:
    """Returns the folder of Flink's scripts and jars; `MissingExtra` where it is not installed."""
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise MissingExtra("apache-flink", "flink", "--on flink")
    return Path(spec.origin).parent


def java_home() -> Path:
    """Returns the folder of the JDK."""
    javac = shutil.which("javac")
    if "JAVA_HOME" in os.environ:
        return Path(os.environ["JAVA_HOME"])
    if javac is None:
        raise ConfigError("Flink needs a JDK, 11 or 17, and there is no javac; install one, or set JAVA_HOME")
    return Path(javac).resolve().parent.parent


def environment(configuration: Path) -> dict[str, str]:
    """Returns the environment of Flink's scripts."""
    home = flink_home()
    own = {
        "FLINK_HOME": str(home),
        "FLINK_CONF_DIR": str(configuration),
        "FLINK_LIB_DIR": str(configuration.parent / "lib"),
        "FLINK_LOG_DIR": str(configuration.parent / "log"),
        "JAVA_HOME": str(java_home()),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    return os.environ | own


def link_jars(folder: Path) -> None:
    """Link Flink's jars into a folder, the one for Python among them, which pip puts elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    home = flink_home()
    for jar in [*(home / "lib").glob("*.jar"), *(home / "opt").glob("flink-python-*.jar")]:
        link = folder / jar.name
        if not link.exists():
            link.symlink_to(jar)


def pack(folder: Path) -> Path:
    """Compile the Java sources into a jar in this folder, and return it."""
    classes = folder / "classes"
    classes.mkdir(parents=True, exist_ok=True)
    sources = sorted(SOURCES.glob("*.java"))
    done = subprocess.run(
        [
            str(java_home() / "bin" / "javac"), *(f"-J{one}" for one in BRIEF.split()),
            "--release", "11", "-nowarn", "-proc:none", "-d", str(classes),
            "-cp", f"{flink_home() / 'lib'}/*", *map(str, sources),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ConfigError(f"what is Java here does not compile against {flink_home()}:\n{done.stderr}")
    jar = folder / "tocsin-flink.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for one in sorted(classes.rglob("*.class")):
            archive.write(one, str(one.relative_to(classes)))
    return jar
