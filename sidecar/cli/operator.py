"""`lockgate operator renew`, and how every verb that needs an operator gets one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pki.errors import LockgateError, UnreachableError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import clock_time
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.operator import OperatorCredential

RENEW_SECONDS = 10.0
ASIDE_SECONDS = 2.0


@contextmanager
def acting(settings: Settings) -> Iterator["OperatorCredential"]:
    """The operator that the settings name. What is past half its life is renewed once the work is done.

    Not before: a kill switch waits for no renewal, and with the CA away it works all the same.
    """
    from sidecar.operator import OperatorCredential

    credential = OperatorCredential.load(settings.operator_folder)
    yield credential
    if credential.is_due:
        _renew_aside(settings, credential)


def _renew_aside(settings: Settings, credential: "OperatorCredential") -> None:
    try:
        credential.renew(ASIDE_SECONDS)
    except UnreachableError:
        pass  # The next command tries again, and at the end the expired certificate says what to do.
    except LockgateError as error:
        ends = clock_time(credential.not_after)
        settings.say(f"operator {credential.credential.id.name}: works until {ends}; {error}")


@click.group()
@settings_options
def operator(settings: Settings) -> None:
    """Your own credential as an operator."""


@operator.command()
@settings_options
def renew(settings: Settings) -> int:
    """Renew the certificate, with the passphrase, for the same key: up to 7 days from one token.

    Other commands do so by themselves when half of its life is over.
    """
    from sidecar.operator import OperatorCredential

    credential = OperatorCredential.load(settings.operator_folder)
    ends = credential.renew(RENEW_SECONDS)
    settings.emit(
        {"id": credential.author, "not_after": ends}, f"renewed {credential.author} until {clock_time(ends)}"
    )
    return Exit.YES
