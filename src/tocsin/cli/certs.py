"""The command line's part for certificates: an authority of the plant's own."""

from __future__ import annotations

from pathlib import Path

import click

from tocsin.errors import ConfigError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("devices", nargs=-1)
@click.option("--broker", default="localhost", show_default=True, help="The broker's host name or address.")
@click.option("--days", default=365, show_default=True, help="How long the certificates are valid.")
@click.option("--revoke", multiple=True, metavar="DEVICE", help="Make a device's certificate invalid.")
def certs(folder: Path, devices: tuple[str, ...], broker: str, days: int, revoke: tuple[str, ...]) -> None:
    """Make what mutual TLS needs: tocsin certs certs pump-1 pump-2 tocsin --broker broker.plant.local

    A certificate authority, the broker's certificate, one for each device (its name is the user that the broker and
    its ACL know), a list of revoked ones, and an ACL that keeps devices to their own topics. What exists is kept; to
    renew a certificate, delete its .pem file and run this again.
    """
    from tocsin.mqtt.authority import Authority

    if days < 1:
        raise ConfigError(f"--days {days}: a certificate is valid for at least a day")
    authority = Authority(folder)
    authority.server(broker, days)
    for device in devices:
        authority.device(device, days)
    for device in revoke:
        authority.revoke(device)
    for path in authority.made:
        click.echo(f"wrote {path}", err=True)
    if revoke:
        click.echo("the broker reads crl.pem when it starts, or on SIGHUP (Mosquitto)", err=True)
