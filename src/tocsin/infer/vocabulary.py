"""Words in the names of fields, in some languages: of machines, signals, times, or the record itself."""

from __future__ import annotations

from tocsin.values.names import words_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRONG = _words(
    """
    machine maschine device dev asset equipment anlage station host hostname robot thing engine motor pump turbine
    unit deviceid machineid assetid deveui entity aggregat instance compressor vehicle press maquina
    """
)
"""Words in names of machines, and of what sends for one."""
FAIR = _words(
    """
    sensor sensorid node nodeid serial serialnumber sn mac location line linie cell client gateway source src bn
    plc sps site room bearing
    """
)
"""Words in names of what is often, but not always, a machine."""
WEAK = _words("id name key object label topic")
"""Words in names of anything that has a name."""
NUMBERED = _words("id nr no num number nummer index")
"""Words that may stand beside those in names of machines that are numbers."""
NOT_A_NAME = _words(
    """
    status state type typ model version firmware fw mode ip user message msg text time date description failure
    fault error fehler alarm hours speed temperature running color class brand vendor manufacturer application app
    tenant timezone cluster network join session correlation module modules session schema group groups count
    profile key_id
    """
)
"""Words in names of what is said of a machine."""
VALUE_WORDS = _words("v val value wert messwert reading y data number result vl valor magnitude valeur sv pv")
"""Names that say nothing but that it is a value."""
STRONG_NAMES = _words(
    """
    tag tagname signal sensor metric variable var point item dataitemid property parameter quantity field symbol n
    messstelle kanal channel varname measurement label kpi attribute kind
    """
)
"""Names of a field that names the signal of a row."""
WEAK_NAMES = _words("id name key type typ node nodeid displayname")
"""Names of a field that may."""
EXACT = _words("time timestamp ts datetime date zeit zeitstempel datum t date_time")
"""Names that are those of times and of nothing else."""
TIMES = _words("date time timestamp ts datetime at when zeit datum uhrzeit fecha hora heure utc epoch t bt stamp")
"""Words in names of times."""
UNITS = _words(
    """
    °C °F K degC mbar bar Pa hPa kPa MPa psi mV V kV mA A kA W kW MW VA kVA var kvar Wh kWh MWh J kJ MJ Hz kHz MHz
    rpm U/min 1/min min-1 1/s % %RH %rF mm cm m km µm um mil mm/s mm/s² m/s m/s² m/s2 km/h g mg kg t N kN Nm kNm l L
    ml m² m³ m3 l/s l/min l/h L/min m³/h m3/h Nm³/h m³/s m³/min kg/h kg/s t/h s ms min h d ppm ppb dB dB(A) lx lux Ω
    Ohm kOhm ohm pH µS/cm mS/cm mg/l
    ° deg rad rad/s g/l g/m³ kg/m³ W/m² kW/m² V/m mbara barg bar(g) bar(a) Stk pcs
    """
)
"""Units, as they stand behind the names of columns or under them."""


def is_time_name(name: str) -> bool:
    """Return whether a name says that it is a time, or at least may be one.

    Examples
    --------
    >>> [is_time_name(name) for name in ("TimeString", "received_at", "Zeitstempel", "current", "data.value")]
    [True, True, True, False, False]
    """
    spelled = name.lower()
    return bool(TIMES & set(words_of(name))) or any(part in spelled for part in ("time", "zeit", "datum", "stamp"))
