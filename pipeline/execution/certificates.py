"""Whether Dask's settings have the certificates that a scheduler takes."""

from distributed.security import Security

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.losses import brief


def require_certificates(address: str) -> None:
    """Passes if Dask's settings have what this address takes; a `Client` would hang without.

    Raises:
        ClusterError: there are no certificates, or they can't be read, or encryption is required.
    """
    security = Security()
    try:
        has_certificates = security.get_connection_args("client")["ssl_context"] is not None
    except OSError as error:
        raise ClusterError(
            f"the certificates that Dask's configuration names can't be read ({brief(error)}); "
            "see distributed.comm.tls there"
        ) from error
    encrypted = address.startswith(("tls://", "wss://"))
    if encrypted and not has_certificates:
        raise ClusterError(
            f"the Dask scheduler at {address} takes certificates, and Dask's configuration has "
            "none; set ca-file, client.cert and client.key under distributed.comm.tls"
        )
    if security.require_encryption and not encrypted:
        raise ClusterError(
            f"Dask's configuration requires encryption, and {address} has none; start the "
            "scheduler with `--protocol tls`"
        )
