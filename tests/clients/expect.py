"""What the programs of this folder expect of a service."""

import time

from botocore.exceptions import ClientError

PATIENCE = 60


def eventually(what, holds):
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def refused(code, call):
    """The answer of a call that is to fail with this code."""
    try:
        call()
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error.response
    raise AssertionError(f"{code} was expected")
