// What the server sends, and the check of it at the boundary: the schema is the server's own (serve/messages.py).
import { SCHEMAS, SEVERITIES, STATES } from "/words.js";

/**
 * @typedef {Object} SessionInfo
 * @property {string} csrf
 * @property {string} title
 * @property {string} version
 * @property {string} name
 * @property {string} role
 * @property {boolean} signed_in
 * @property {string} zone  the plant's; empty: the browser's
 *
 * @typedef {Object} Points  columns, oldest first; time in milliseconds since 1970
 * @property {number[]} time
 * @property {(number|null)[]} value
 * @property {(number|null)[]} [least]  where a point stands for several readings, whose mean is the value
 * @property {(number|null)[]} [most]
 * @property {(number|null)[]} [expected]
 * @property {(number|null)[]} [lower]
 * @property {(number|null)[]} [upper]
 * @property {(number|null)[]} [score]
 *
 * @typedef {Object} Tile
 * @property {number} id
 * @property {string} name
 * @property {"running"|"silent"|"alarm"} status
 * @property {string} severity
 * @property {boolean} active
 * @property {boolean} silent
 * @property {string} state
 * @property {string} [label]  what people call it, where that is not its name
 * @property {string} [area]
 * @property {string} [line]
 *
 * @typedef {Object} Glance
 * @property {number} id
 * @property {number|null} health  from 0 to 100
 * @property {{signal: string, percent: number}[]} pulled_by
 * @property {{expected: number, lower: number, upper: number, confidence: number, reading_s: number|null}|null} life  in readings
 * @property {number} signals  how many there are
 * @property {{signal: string, label: string, value: number|null}[]} values  of the first few
 * @property {(number|null)[]} recent
 *
 * @typedef {Object} MachineSeries
 * @property {number} id
 * @property {string} machine
 * @property {string} signal
 * @property {string} stream
 * @property {Points} points
 *
 * @typedef {Object} NewPoints
 * @property {string} machine
 * @property {MachineSeries[]} series
 * @property {number} again_s
 *
 * @typedef {Object} ShownAlarm
 * @property {string} id
 * @property {string} machine
 * @property {string} rule
 * @property {string} signal
 * @property {string} time
 * @property {string|null} started
 * @property {string} state
 * @property {string} severity
 * @property {string} mode
 * @property {string} event
 * @property {string} message
 * @property {string} advice
 * @property {number|null} value
 * @property {number|null} expected
 * @property {number|null} limit
 * @property {string} unit
 * @property {number|null} score
 * @property {string} why
 * @property {string} since
 * @property {number|null} depth
 * @property {string} contributions  what has raised the verdict that it rests on
 * @property {string} assignee  whose it is, if it was given to a person
 * @property {string} by
 * @property {string} reason
 * @property {string} label
 * @property {string} comment  the last one, behind the name of who wrote it
 *
 * @typedef {Object} Figures
 * @property {"live"|"stalled"|"gone"} engine
 * @property {number} engine_silent_s
 * @property {string|null} trouble
 * @property {number} rows_per_s
 * @property {number|null} lag_s
 * @property {number} rows_in
 * @property {number} late
 * @property {number} bad
 * @property {Object<string, number>} bad_by_reason
 * @property {number} machines_left_out
 * @property {number} series_in_turn  how many signals take turns; 0 if all are heard
 * @property {Object<string, {lag_epochs: number, lag_bytes: number, reason: string|null}>} sinks
 * @property {Object<string, {silent_s: number|null, splits: number, reason: string|null}>} sources
 *
 * @typedef {Object} Changes
 * @property {Figures} counters
 * @property {Tile[]} [machines]
 * @property {ShownAlarm[]} [alarms]
 *
 * @typedef {Object} Lane
 * @property {string} machine
 * @property {number[]} cells  -1: nothing is known; 0: calm; else how severe
 * @property {string} [signal]  empty where it is of the machine
 *
 * @typedef {Object} Lanes
 * @property {number} begin_ms
 * @property {number} cell_ms
 * @property {Lane[]} lanes
 * @property {number} first
 * @property {number} machines
 * @property {string} note
 *
 * @typedef {Object} Waterfall
 * @property {number} begin_ms
 * @property {number} cell_ms
 * @property {number} cells
 * @property {number} lines
 * @property {number} top_hz
 * @property {number} lowest
 * @property {number} highest
 * @property {string} levels  base64, line by line of cell after cell
 *
 * @typedef {Object} Spectra
 * @property {string} machine
 * @property {string[]} kinds  none where no spectra are kept
 * @property {string} kind
 * @property {string} unit
 * @property {number|null} at_ms
 * @property {number} top_hz
 * @property {(number|null)[]} amplitudes
 * @property {number|null} shaft_hz
 * @property {string} fault
 * @property {{name: string, part: string, hz: number, ratio: number|null, is_named: boolean}[]} faults
 * @property {Waterfall|null} waterfall
 *
 * @typedef {Object} AlarmEvent
 * @property {string} id
 * @property {string} key
 * @property {string} rule
 * @property {string} time
 * @property {string} severity
 * @property {string} state
 * @property {string} event
 * @property {string} message
 * @property {string} by
 * @property {string} reason
 * @property {string|null} [assignee]
 *
 * @typedef {Object} People
 * @property {string[]} names  to whom an alarm can be given; none where any name will do
 *
 * @typedef {Object} EarlierCase
 * @property {string} id
 * @property {string} started
 * @property {string} until
 * @property {string} state
 * @property {string} message
 * @property {string[]} said
 * @property {string[]} comments
 *
 * @typedef {Object} Maintenance
 * @property {string} time
 * @property {string} alarm
 * @property {string} by
 * @property {string} reason
 * @property {number} audit  the number of its row in the audit
 *
 * @typedef {Object} Evidence
 * @property {Object<string, number>} rests_on
 * @property {AlarmEvent} alarm
 * @property {AlarmEvent[]} history
 * @property {AlarmEvent[]} beside
 * @property {EarlierCase[]} before
 * @property {Maintenance[]|null} maintenance  null where the audit cannot be read
 * @property {Onset?} [onset]
 *
 * @typedef {Object} Onset
 * @property {string} signal
 * @property {number} at_ms
 * @property {Points} points
 * @property {Points} band
 * @property {{expected?: number, lower?: number, upper?: number, limit?: number}} at_onset
 * @property {{least: ?number, most: ?number, count: number}} before
 * @property {{least: ?number, most: ?number, count: number}} after
 *
 * @typedef {Object} AccessReport
 * @property {{name: string, kind: "account"|"token", role: string, made: string, expires: string|null, is_expired: boolean}[]} entries
 * @property {{number: number, time: string, who: string, role: string, through: string, what: string, subject: string, details: string}[]} audit
 * @property {number} rows
 * @property {string} head
 * @property {string} fault  empty if the chain holds
 *
 * @typedef {Object} PartState
 * @property {string} id
 * @property {"source"|"step"|"sink"|"channel"} kind
 * @property {string} name  of its component
 * @property {string} stream
 * @property {{part: string, port: string}[]} inputs
 * @property {"well"|"odd"|"bad"|"ended"|"unknown"} state
 * @property {string} said  why
 * @property {number|null} rows
 * @property {number|null} rows_per_s
 * @property {number|null} lag_s
 * @property {number} late
 * @property {number} rejected
 * @property {number} rung
 *
 * @typedef {Object} PipelineState
 * @property {PartState[]} parts  each behind those that it reads from
 * @property {string} note
 *
 * @typedef {Object} PartDetails
 * @property {string} id
 * @property {"source"|"step"|"sink"|"channel"} kind
 * @property {string} stream
 * @property {{name: string, what: string, settings: {name: string, value: string, is_default: boolean, what: string}[]}[]} components
 *
 * @typedef {Object} PartRows
 * @property {string} id
 * @property {{reason: string, rows: number, detail: string}[]} set_aside
 * @property {Object<string, number>} noticed
 * @property {{part: string, port: string, columns: {name: string, kind: string}[], rows: any[][]}[]} ports
 * @property {string} note
 *
 * @typedef {Object} QueryAnswer
 * @property {Object<string, number>} rests_on
 * @property {{name: string, kind: "number"|"time"|"text"}[]} columns
 * @property {any[][]} rows
 * @property {boolean} is_cut
 */

/** Returns the value, or throws if it is not what the schema of this name says. */
export function checked(name, value) {
  const wrong = fault({ $ref: name }, value, name);
  if (wrong) throw new Error(`The server sent what this page does not understand (${wrong}); reload the page.`);
  return value;
}

const KINDS = {
  string: (v) => typeof v === "string", number: (v) => typeof v === "number", integer: Number.isInteger,
  boolean: (v) => typeof v === "boolean", null: (v) => v === null, array: Array.isArray,
  object: (v) => typeof v === "object" && v !== null && !Array.isArray(v),
};

/** Returns where a value differs from a JSON Schema (as much of it as msgspec writes); empty if it does not. */
function fault(schema, value, where) {
  if (schema.$ref) return fault(SCHEMAS[schema.$ref], value, where);
  if (schema.anyOf) return schema.anyOf.some((one) => !fault(one, value, where)) ? "" : where;
  if (schema.enum) return schema.enum.includes(value) ? "" : where;
  if (schema.type && !KINDS[schema.type](value)) return where;
  if (schema.items && value.length && !(schema.items.type === "number")) {
    for (let i = 0; i < value.length; i++) { const wrong = fault(schema.items, value[i], `${where}[${i}]`); if (wrong) return wrong; }
  }
  for (const name of schema.required ?? []) if (!Object.hasOwn(value, name)) return `${where}.${name}`;
  for (const [name, inner] of Object.entries(schema.properties ?? {})) {
    const wrong = Object.hasOwn(value, name) ? fault(inner, value[name], `${where}.${name}`) : "";
    if (wrong) return wrong;
  }
  if (typeof schema.additionalProperties === "object") {
    for (const [name, inner] of Object.entries(value)) { const wrong = fault(schema.additionalProperties, inner, `${where}.${name}`); if (wrong) return wrong; }
  }
  return "";
}

/** What an alarm's state means; one that is not known is shown as it is written, and as open. */
export function stateOf(alarm) {
  return Object.hasOwn(STATES, alarm.state) ? STATES[alarm.state] :
    { label: alarm.state.toLowerCase().replaceAll("_", " "), active: false, open: true, unacknowledged: false };
}

/** How severe a band is: 1 for the least; 0 for none. */
export const rank = (severity) => SEVERITIES.findIndex((one) => one.name === severity) + 1;

/** The sign of a band. */
export const shapeOf = (severity) => SEVERITIES.find((one) => one.name === severity)?.shape ?? "";

/** The band with this name, else the least severe one. */
export const severityOf = (alarm) => (rank(alarm.severity) ? alarm.severity : SEVERITIES[0].name);

/** Where an alarm is: its machine, as people call it, and the signal if it is of one. */
export function placeOf(alarm, machine = alarm.machine, signal = alarm.signal) {
  if (!alarm.signal) return machine;
  const end = `/${alarm.signal}`; // keys go down to the signal where each signal is judged by itself
  return `${machine.endsWith(end) ? machine.slice(0, -end.length) : machine} · ${signal}`;
}

/** Where a machine stands; empty if nobody has said it. */
export const standOf = (tile) => [tile.area, tile.line].filter(Boolean).join(" · ");

/** A word of the engine's as people write it. */
export const worded = (text) => text.replaceAll("_", " ");
