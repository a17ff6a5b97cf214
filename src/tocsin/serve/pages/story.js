// An alarm as a story, in a dialog: what happened, who did what, what else rang, and how earlier cases ended.
import { node, when } from "/chart.js";
import { clock } from "/clock.js";
import { figure } from "/onset.js";
import { placeOf, stateOf, worded } from "/wire.js";

const HOUR_S = 3600;

export class Story {
  // `goTo` shows the signal at the moment it began; `called` says what people call a signal, and its unit; `machineCalled` a
  // machine; `closed` hears that it is closed.
  constructor(dialog, goTo, called, machineCalled, closed) {
    Object.assign(this, { dialog, goTo, called, machineCalled });
    dialog.addEventListener("close", closed);
    this.title = dialog.querySelector("h2");
    this.body = dialog.querySelector(".body");
    dialog.querySelector(".show").addEventListener("click", () => { dialog.close(); this.goTo(this.alarm); });
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  }

  // Opens it at once with what is known, while the tables are read.
  /** @param {import("/wire.js").ShownAlarm} alarm */
  wait(alarm) {
    this.alarm = alarm;
    this.title.textContent = this.place(alarm);
    this.body.replaceChildren(node("p", "message", clock.worded(alarm.message, alarm.why, this.called(alarm.signal)[0])));
    this.say("Reading the tables …");
    this.dialog.setAttribute("aria-busy", "true");
    if (!this.dialog.open) this.dialog.showModal();
  }

  // Says, under what is known, why there is no more of it yet.
  say(text) {
    const line = this.body.querySelector(".waiting") ?? this.body.appendChild(node("p", "waiting"));
    line.setAttribute("role", "status");
    line.textContent = text;
  }

  place(alarm) { return placeOf(alarm, this.machineCalled(alarm.machine), this.called(alarm.signal)[0]); }

  isOpen(id) { return this.dialog.open && this.alarm.id === id; }

  /**
   * @param {import("/wire.js").ShownAlarm|undefined} known  if it is among those that the page has
   * @param {import("/wire.js").Evidence} told
   */
  show(known, told) {
    const alarm = this.alarm = known ?? { ...told.alarm, machine: told.alarm.key, signal: told.onset?.signal ?? "", unit: "", started: null };
    const began = alarm.started ?? told.history[0].time;
    this.title.textContent = this.place(alarm);
    this.body.replaceChildren(
      node("p", "message", clock.worded(alarm.message, alarm.why, this.called(alarm.signal)[0])),
      node("p", "span", stateOf(told.alarm).active ? `Since ${when(began)}; it is not over.` : `From ${when(began)} on, for ${lasting(began, told.alarm.time)}.`),
      ...(told.onset ? [figure(told.onset, ...this.called(told.onset.signal, alarm.unit))] : []),
      ...part("What happened", told.history.map((row, i) => [row.time, sentence(row, told.history[i - 1])])),
      ...part("What else rang within an hour", told.beside.map((row) => [row.time, `${row.severity}: ${clock.worded(row.message)}`])),
      ...part("Maintenance of the machine", (told.maintenance ?? []).map((one) => [one.time, maintained(one)]), told.maintenance ? "none is written down" : "the audit cannot be read"),
      ...part("Cases before", told.before.map((one) => [one.started, ended(one)])),
      node("p", "rests", `Read from ${[...Object.entries(told.rests_on).map(([table, version]) => `${table} (version ${version})`), ...audited(told.maintenance)].join(", ")}.`),
    );
    this.dialog.removeAttribute("aria-busy");
    if (!this.dialog.open) this.dialog.showModal();
  }
}

function part(title, rows, none = "nothing") {
  const list = node("ul");
  for (const [time, text] of rows) {
    const item = node("li");
    const at = node("time", "", when(time));
    at.dateTime = time;
    item.append(at, node("span", "", text));
    list.append(item);
  }
  return [node("h3", "", title), rows.length ? list : node("p", "none", none)];
}

function sentence(row, before) {
  const who = row.by ? ` by ${row.by}` : "";
  const whom = row.assignee && row.assignee !== before?.assignee ? ` to ${row.assignee}` : "";
  return `${worded(row.event)}${whom}${who}${row.reason ? `: ${row.reason}` : ""}`;
}

function ended(one) {
  const said = one.said.length ? `, said to be ${one.said.at(-1)}` : "";
  return [`${clock.worded(one.message)} (${lasting(one.started, one.until)}, ${stateOf(one).label}${said})`, ...one.comments].join("; ");
}

function maintained(one) {
  return `${one.alarm} by ${one.by}${one.reason ? `: ${one.reason}` : ""}`;
}

// The rows of the audit that it rests on.
function audited(maintenance) {
  return maintenance?.length ? [`audit (${maintenance.map((one) => `row ${one.audit}`).join(", ")})`] : [];
}

function lasting(from, to) {
  const seconds = Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < HOUR_S) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * HOUR_S ? `${(seconds / HOUR_S).toFixed(1)} h` : `${(seconds / HOUR_S / 24).toFixed(1)} days`;
}
