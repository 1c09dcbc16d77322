from pki.clock import Wall
from sidecar.audit import record
from sidecar.audit.overheard import Overheard
from sidecar.audit.record import Record
from tests.datapath import LogBook

STOP = record.stop(Wall(1), "told to")


async def test_the_listener_hears_what_the_log_is_given() -> None:
    """Whichever way it is written; and the log has it all the same."""
    heard: list[Record] = []
    log = LogBook()
    overheard = Overheard(log, heard.append)
    overheard.append(STOP)
    await overheard.commit(STOP)
    assert heard == log.records == [STOP, STOP]


async def test_the_log_answers_for_itself() -> None:
    """Whether it can be written is not the listener's to say."""
    log = LogBook(available=False)
    assert not Overheard(log, lambda _: None).available
