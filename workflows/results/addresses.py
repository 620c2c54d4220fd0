"""What an output's address means: that it can be written to, and where the output is made."""

from pathlib import Path

from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.outbox import Outbox
from segpipe.pipeline.scenes.location import Address, is_remote, place_of
from segpipe.workflows.errors import OptionError


def outbox_of(output: Address, staging: str | Path | None) -> Outbox:
    """The outbox of a map at an address, in the staging folder or the current one.

    Raises:
        StorageError: there is no such folder.
    """
    home = Path(staging or ".").absolute()
    if not home.is_dir():
        raise StorageError(f"there is no folder {home}; make it, or choose another --staging")
    return Outbox(home, output)


def output_address(option: str, name: str) -> Address:
    """The address under which something can be written.

    Raises:
        OptionError: nothing can be written there.
        InputRefusedError: it names no object.
    """
    address = place_of(name)
    if not isinstance(address, Address) or address.service == "http":
        raise OptionError(
            f"--{option} {address} can't be written to; name s3://, gs:// or az://, or a file"
        )
    if set("?#") & set(name) or address.name.startswith("."):
        raise OptionError(
            f"--{option} {address} has a name that not every reader takes; leave out ? and #, and "
            "a dot in front"
        )
    return address


def on_a_disk(output: str | Path | None, staging: str | Path | None) -> str | Path | None:
    """Where an output is finished: itself, or its place in the outbox."""
    if not isinstance(output, str) or not is_remote(output):
        return output
    address = output_address("output", output)
    return outbox_of(address, staging).place(address)
