"""The command line's part for devices: run one, and send models to them."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tocsin.errors import ConfigError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def edge(file: Path) -> None:
    """Run the process of a device (its settings are JSON): it forecasts, takes up bundles, and works offline."""
    from tocsin.edge.device import run

    run(file)


@click.command()
@click.argument("name")
@click.argument("version", type=int, required=False)
@click.option("--to", required=True, help="A folder, or a topic as mqtt://broker:1883/edge/bundle.")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="File with the key (32 bytes, or PEM).")
@click.option("--store", "folder", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--user")
@click.option("--password", help="Better set as TOCSIN_MODELS_DEPLOY_PASSWORD.")
def deploy(
    name: str, version: int | None, to: str, key: Path, folder: Path, user: str | None, password: str | None
) -> None:
    """Send the champion, or a version, to devices: as a signed bundle with a self-test."""
    from tocsin.edge.bundle import pack, read_key
    from tocsin.models.store import Store

    store = Store(folder)
    version = version if version is not None else store.followed(name).version
    data = pack(store, name, version, read_key(key), time.time_ns() // 1_000)
    if "://" not in to:
        place = Path(to)
        place.mkdir(parents=True, exist_ok=True)
        new = place / f".{name}.new"
        new.write_bytes(data)
        new.replace(place / f"{name}.bundle")
    else:
        from urllib.parse import urlsplit

        from tocsin.mqtt.plain import Lost, Plain

        parts = urlsplit(to)
        if not (topic := parts.path.strip("/")):
            raise ConfigError(f"--to {to}: say the topic, too, as mqtt://broker:1883/edge/bundle")
        client = Plain(f"{parts.scheme}://{parts.netloc}", f"tocsin-deploy-{name}", user=user, password=password)
        try:
            client.connect()
            client.publish(topic, data, retain=True)
        except Lost as error:
            raise ConfigError(f"{error}; is the broker there?") from error
        client.close()
    click.echo(f"{name} {version} sent to {to} ({len(data):,} bytes)", err=True)
