"""The store behind an address, with the credentials that the environment has for it."""

import configparser
import functools
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from segpipe.pipeline.scenes.location import Address, Service

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, ObjectStore, RetryConfig

BACKOFF: "BackoffConfig" = {
    "init_backoff": timedelta(milliseconds=250),
    "max_backoff": timedelta(seconds=10),
    "base": 2,
}
RETRY: "RetryConfig" = {
    "max_retries": 5,
    "backoff": BACKOFF,
    "retry_timeout": timedelta(minutes=3),
}
"""How often a request is tried again, and how long: resets, timeouts, cut transfers, 429 and 5xx.

A transfer that was cut goes on where it ended.
"""

_TIMEOUTS: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(minutes=10),
}
NOBODY = "127.0.0.1:9"
"""Where a request ends that would go to another host: nothing listens there."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

_READ_BY_OBSTORE = ("AWS_", "GOOGLE_", "AZURE_")

Setting = str | bool


def connect(address: Address) -> "ObjectStore":
    """The store whose object with the empty name is the one at `address`; "NAME" lies below it.

    Raises:
        obstore.exceptions.BaseError: the environment doesn't say enough about it.
    """
    given = {name: text for name, text in os.environ.items() if name.startswith(_READ_BY_OBSTORE)}
    settings = tuple(sorted(_configuration(address.service).items()))
    return _store(address, settings, tuple(sorted(given.items())))


@functools.lru_cache(maxsize=32)
def _store(
    address: Address,
    settings: tuple[tuple[str, Setting], ...],
    environment: tuple[tuple[str, str], ...],  # with others, it's another store
) -> "ObjectStore":
    config: dict[str, Any] = dict(settings)
    plain = str(config.get("endpoint", config.get("base_url", address.url))).lower()
    client: ClientConfig = {**_TIMEOUTS, "allow_http": plain.startswith("http://")}
    if address.service == "http":
        client |= _alone(address)
        url = _without_slash(address.url)
        return HTTPStore(url, client_options=client, retry_config=RETRY)
    options: dict[str, Any] = {
        "prefix": address.path,
        "client_options": client,
        "retry_config": RETRY,
    }
    if address.service == "s3":
        return S3Store(address.host, **options, **config)
    if address.service == "gs":
        return GCSStore(address.host, **options, **config)
    container, _, account = address.host.partition("@")
    if account:
        config["account_name"] = account.partition(".")[0]
    return AzureStore(container, **options, **config)


def _alone(address: Address) -> "ClientConfig":
    """Settings with which no other host is reached, unless a proxy of the user's decides."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return {}
    return {
        "proxy_url": f"http://{NOBODY}",
        "proxy_excludes": urlsplit(address.url).hostname or "",
    }


def _configuration(service: Service) -> dict[str, Setting]:
    """What the environment says about a service, in the words of GDAL and of its own tools.

    What obstore reads from the environment by itself isn't repeated.
    """
    if service == "s3":
        return _amazon()
    if service == "gs":
        return {**_given("base_url", "CPL_GS_ENDPOINT"), **_unsigned("GS_NO_SIGN_REQUEST")}
    if service == "azure":
        return {
            **_connection_string(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")),
            **_given("account_name", "AZURE_STORAGE_ACCOUNT"),
            **_given("account_key", "AZURE_STORAGE_ACCESS_KEY"),
            **_given("sas_key", "AZURE_STORAGE_SAS_TOKEN"),
            **_unsigned("AZURE_NO_SIGN_REQUEST"),
        }
    return {}


def _amazon() -> dict[str, Setting]:
    found = {**_profile(), **_unsigned("AWS_NO_SIGN_REQUEST")}
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_S3_ENDPOINT")
    endpoint = next((os.environ[name] for name in endpoints if os.environ.get(name)), None)
    if endpoint is not None:
        scheme = "https" if _is_on(os.environ.get("AWS_HTTPS", "YES")) else "http"
        found["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    return found


def _profile() -> dict[str, Setting]:
    """Static keys and the region of a profile in the files that AWS's own tools write."""
    folder = Path.home() / ".aws"
    name = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, Setting] = {}
    for variable, file, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(os.environ.get(variable, folder / file))
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        values = dict(parser[section]) if parser.has_section(section) else {}
        if "aws_secret_access_key" in values and "AWS_ACCESS_KEY_ID" not in os.environ:
            keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            found |= {key.removeprefix("aws_"): values[key] for key in keys if key in values}
        if "region" in values and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & set(os.environ):
            found["region"] = values["region"]
    return found


def _connection_string(text: str) -> dict[str, Setting]:
    parts = dict(part.partition("=")[::2] for part in text.split(";"))
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    return {key: parts[name] for name, key in names.items() if parts.get(name)}


def _given(key: str, variable: str) -> dict[str, Setting]:
    return {key: os.environ[variable]} if os.environ.get(variable) else {}


def _unsigned(variable: str) -> dict[str, Setting]:
    return {"skip_signature": True} if _is_on(os.environ.get(variable, "NO")) else {}


def _is_on(text: str) -> bool:
    return text.strip().upper() in ("YES", "TRUE", "ON", "1")


def _without_slash(url: str) -> str:
    """The address of a folder, below which names are put after a slash."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))
