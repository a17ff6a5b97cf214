"""Names of fields: their words, and whether these are of the record rather than of something measured."""

from __future__ import annotations

import re

_ABOUT = """
    label anomaly changepoint target failure fault
    id ids uuid guid seq sequence sequencenumber index idx nr no row version port fport fcnt cnt quality qual q
    status statuscode validity code rssi snr lqi linkquality lat lon lng latitude longitude bandwidth spreading rx
    metadata settings gateway wifi uptime heap batch charge lot order auftrag recipe rezept sn serial channelindex
    timezone partition offset schema year month day hour minute second count lsb loadavg mqttcount sleep addr
    devaddr address dr adr tx txinfo rxinfo qc udi
"""
ABOUT = frozenset(_ABOUT.split())
"""Words in names of what is said about a record, its way or its order, rather than measured."""


def words_of(name: str) -> list[str]:
    """Return the words of a name, in small letters, without places in lists.

    Examples
    --------
    >>> words_of("uplink_message.fCnt"), words_of("@dataItemId"), words_of("MotorTemp2")
    (['uplink', 'message', 'f', 'cnt'], ['data', 'item', 'id'], ['motor', 'temp2'])
    """
    parted = re.sub(r"(?<=[a-zäöü0-9])(?=[A-ZÄÖÜ])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", parted) if word]


def is_about_the_record(name: str) -> bool:
    """Return whether a name is one of ids, counters, qualities and radio, rather than of something measured.

    Examples
    --------
    >>> [name for name in ("rx.rssi", "fCnt", "motor.speed") if is_about_the_record(name)]
    ['rx.rssi', 'fCnt']
    """
    words = words_of(name)
    return any(word in ABOUT for word in words) or "".join(words) in ABOUT
