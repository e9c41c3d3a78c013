"""`fortdb endpoint --aws`: where the ring is."""

from __future__ import annotations

import click

from fortdb.cli.settings import Settings, json_option, pass_settings


@click.command()
@click.option("--aws", is_flag=True, help="Find the Elastic IP by its tag, with your AWS credentials.")
@click.option(
    "--cluster",
    envvar="FORTDB_CLUSTER",
    show_envvar=True,
    default="fortdb",
    show_default=True,
    help="The ring's name.",
)
@click.option("--region", envvar="AWS_REGION", show_envvar=True, help="The AWS region.")
@json_option
@pass_settings
def endpoint(settings: Settings, aws: bool, cluster: str, region: str | None) -> None:
    """Print the address that clients use, as FORTDB_URL takes it."""
    host, port = settings.address.host, settings.address.port
    if aws:
        from fortdb.aws.endpoint import find_endpoint

        host, port = find_endpoint(cluster, region, port)
    url = f"{'fortdbs' if settings.access.tls else 'fortdb'}://{host}:{port}"
    settings.write({"host": host, "port": port, "url": url}, url)
