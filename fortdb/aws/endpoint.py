"""Finding a ring's address in an AWS account, by the tags that Terraform gives it."""

from __future__ import annotations

from typing import Any

from fortdb.errors import BadRequest, ConfigError, Unavailable


def find_endpoint(cluster: str, region: str | None, port: int) -> tuple[str, int]:
    """The Elastic IP of a cluster, and the port.

    Raises `ConfigError` without boto3, credentials or region, `BadRequest` if there is none or more than
    one, `Unavailable` if AWS does not answer.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
    except ImportError:
        raise ConfigError("looking into AWS needs boto3: pip install 'fortdb[aws]'") from None
    try:
        ec2: Any = boto3.client("ec2", region_name=region)
        found = ec2.describe_addresses(Filters=[{"Name": "tag:fortdb:cluster", "Values": [cluster]}])[
            "Addresses"
        ]
    except NoRegionError:
        raise ConfigError("no AWS region: say --region, or set AWS_REGION") from None
    except NoCredentialsError:
        raise ConfigError(
            "no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
        ) from None
    except (BotoCoreError, ClientError) as error:
        raise Unavailable(f"AWS did not answer: {error}") from error
    addresses = [address["PublicIp"] for address in found]
    if len(addresses) != 1:
        what = ", ".join(addresses) or "none"
        raise BadRequest(
            f"one Elastic IP tagged fortdb:cluster={cluster} is wanted, found {what}; say --cluster or --region"
        )
    return addresses[0], port
