// The alarms as a list: why, since when, what to do, and the buttons for what may be done. New ones are announced.
import { reaches } from "/access.js";
import { node, show, when } from "/chart.js";
import { clock } from "/clock.js";
import { placeOf, rank, severityOf, shapeOf, stateOf, worded } from "/wire.js";
import { ACTIONS } from "/words.js";

const SHOWN_MAX = 100;
const KEPT_MAX = 600;
const ANNOUNCED_MAX = 3;
const ANSWER_MS = 15000;
const USUAL_HOURS = "1 h"; // as the labels of actions that last say it

const active = (alarm) => stateOf(alarm).active;
const open = (alarm) => stateOf(alarm).open;
const unacknowledged = (alarm) => stateOf(alarm).unacknowledged;
const get = (id) => document.getElementById(id);
const seldom = (action) => action.detector || action.labels; // done once a case is known; stands behind "More"
const known = (value) => value !== null && value !== undefined;

export class AlarmList {
  // `goTo` shows an alarm's signal and moment; `explain` its evidence; `send` does an action; `announce` and `toast` say something;
  // `called` says what people call a machine, `named` a signal, with its unit.
  constructor(host, { goTo, explain, send, announce, toast, called, named }) {
    Object.assign(this, { host, goTo, explain, send, announce, toast, called, named });
    this.byId = new Map();
    this.rows = new Map(); // alarm id to its elements
    this.changed = true;
    this.role = ""; // of who looks: only what they may do is offered
    get("duration").addEventListener("change", () => { this.changed = true; });
    get("person").addEventListener("input", () => { this.changed = true; });
  }

  /** @param {import("/wire.js").ShownAlarm[]} all */
  load(all) {
    this.byId.clear();
    for (const alarm of all) this.byId.set(alarm.id, alarm);
    this.changed = true;
  }

  /** @param {import("/wire.js").ShownAlarm[]} changes */
  apply(changes) {
    const fresh = [];
    for (const alarm of changes) {
      const before = this.byId.get(alarm.id);
      if (active(alarm) && unacknowledged(alarm) && !(before && active(before))) fresh.push(alarm);
      this.byId.set(alarm.id, alarm);
    }
    if (this.byId.size > KEPT_MAX) for (const [id, alarm] of this.byId) if (!open(alarm) && this.byId.size > KEPT_MAX - 100) this.byId.delete(id);
    this.tell(fresh);
    this.changed = true;
  }

  tell(fresh) {
    if (!fresh.length) return;
    const texts = fresh.slice(0, ANNOUNCED_MAX).map((alarm) => `New ${severityOf(alarm)} alarm: ${alarm.machine} ${this.textOf(alarm)}`);
    if (fresh.length > ANNOUNCED_MAX) texts.push(`and ${fresh.length - ANNOUNCED_MAX} more`);
    this.announce(texts.join(". "));
  }

  /** The signals with an open alarm, of what is so called. */
  signalsOf(isIts) { return new Set([...this.byId.values()].filter((alarm) => alarm.signal && open(alarm) && isIts(alarm.machine)).map((alarm) => alarm.signal)); }

  textOf(alarm) {
    return clock.worded(alarm.message.startsWith(`${alarm.machine} `) ? alarm.message.slice(alarm.machine.length + 1) : alarm.message, alarm.why, this.named(alarm.signal)?.name || alarm.signal);
  }

  // Does what a key stands for; returns whether it stands for something.
  key(name) {
    const rows = [...this.host.children];
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    if (name === "j" || name === "k") {
      const next = Math.min(Math.max(at + (name === "j" ? 1 : -1), 0), rows.length - 1);
      rows[next]?.querySelector(".where").focus();
      return rows.length > 0;
    }
    if (at < 0) return false;
    const { id } = rows[at].dataset;
    if (name === "e") this.explain(this.byId.get(id));
    const button = this.rows.get(id).buttons[ACTIONS.findIndex((action) => action.key === name)];
    if (button && !button.hidden) button.click();
    return name === "e" || Boolean(button);
  }

  // Paints those that fit the filter and stand where is looked; returns how many alarms there are of which kind.
  /** @param {import("/filters.js").AlarmFilter} filter */
  paint(filter, standsThere) {
    const focused = this.host.contains(document.activeElement) ? document.activeElement : null;
    const all = [...this.byId.values()];
    const opened = all.filter(open);
    const fits = filter.fits((alarm) => [alarm.machine, this.called(alarm.machine), alarm.signal, this.named(alarm.signal)?.name ?? "", alarm.rule, alarm.severity, alarm.state, alarm.message, alarm.assignee, alarm.comment].join(" "));
    const shown = all.filter((alarm) => fits(alarm) && standsThere(alarm.machine)).sort((a, b) =>
      active(b) - active(a) || unacknowledged(b) - unacknowledged(a) || rank(b.severity) - rank(a.severity) ||
      b.time.localeCompare(a.time)).slice(0, SHOWN_MAX);
    const keep = new Set(shown.map((alarm) => alarm.id));
    for (const [id, row] of this.rows) if (!keep.has(id)) { row.root.remove(); this.rows.delete(id); }
    shown.forEach((alarm, i) => {
      let row = this.rows.get(alarm.id);
      if (!row) this.rows.set(alarm.id, row = this.makeRow(alarm.id));
      this.paintRow(row, alarm);
      if (this.host.children[i] !== row.root) this.host.insertBefore(row.root, this.host.children[i] ?? null);
    });
    if (focused !== document.activeElement && focused?.isConnected) focused.focus(); // a row that moves loses it
    return {
      open: opened.length, all: all.length, shown: shown.length, active: opened.filter(active).length,
      unacknowledged: opened.filter(unacknowledged).length, worst: Math.max(0, ...opened.map((alarm) => rank(severityOf(alarm)))),
    };
  }

  makeRow(id) {
    const root = node("li", "alarm");
    const top = node("div", "top");
    const pill = node("span", "pill");
    const time = node("time");
    const where = node("button", "where");
    where.type = "button";
    where.addEventListener("click", () => this.goTo(this.byId.get(id)));
    const message = node("div", "message");
    const facts = node("div", "facts");
    const comment = node("div", "said");
    const advice = node("div", "advice");
    const acts = node("div", "acts");
    const buttons = ACTIONS.map((action, i) => {
      const button = node("button", `act ${action.command}${i === 0 ? " primary" : ""}`, action.label);
      button.type = "button";
      button.title = action.sentence;
      button.addEventListener("click", () => this.act(id, action));
      return button;
    });
    top.append(pill, node("span", "spring"), time);
    const evidence = node("button", "act evidence", "Evidence");
    evidence.type = "button";
    evidence.title = "Show what happened, what else rang and how earlier cases ended";
    evidence.addEventListener("click", () => this.explain(this.byId.get(id)));
    const more = node("details", "more");
    more.append(node("summary", "act", "More"), ...buttons.filter((_, i) => seldom(ACTIONS[i])));
    const front = buttons.filter((_, i) => !seldom(ACTIONS[i]));
    const first = ACTIONS.filter((action) => !seldom(action)).findIndex((action) => action.asks); // the evidence stands before it
    acts.append(...front.slice(0, first), evidence, ...front.slice(first), more);
    root.append(top, where, message, facts, comment, advice, acts);
    return { root, pill, where, time, message, facts, comment, advice, buttons, more, sent: "", about: null };
  }

  async act(id, action) {
    const reason = get("reason").value.trim();
    if (action.asks === "text" && !reason) {
      get("reason").focus();
      this.toast("Write the comment here first.");
      return;
    }
    const row = this.rows.get(id);
    const about = row.about = this.byId.get(id);
    row.sent = action.name;
    this.changed = true;
    setTimeout(() => { // the engine answers with a new row of this alarm; if it does not, the buttons come back
      if (row.about === about && row.sent) { row.sent = ""; this.changed = true; this.toast("The engine has not answered yet; the action is kept."); }
    }, ANSWER_MS);
    const details = { reason, ...(action.timed ? { for_s: Number(get("duration").value) } : {}), ...(action.asks === "person" ? { assignee: get("person").value.trim() } : {}) };
    get("reason").value = "";
    try {
      await this.send(id, action.name, details);
    } catch (error) {
      row.sent = "";
      this.changed = true;
      this.toast(error.message);
    }
  }

  paintRow(row, alarm) {
    const severity = severityOf(alarm);
    if (row.sent && row.about !== alarm) row.sent = "";
    Object.assign(row.root.dataset, { severity, active: active(alarm), open: open(alarm), state: alarm.state, id: alarm.id });
    Object.assign(row.pill.dataset, { severity: open(alarm) ? severity : "", status: open(alarm) ? "alarm" : "silent", active: active(alarm) });
    row.pill.textContent = `${shapeOf(severity)} ${severity}`;
    row.where.textContent = placeOf(alarm, this.called(alarm.machine), this.named(alarm.signal)?.name || alarm.signal);
    row.where.title = "Show the signal at the moment it began";
    const began = alarm.started ?? alarm.time;
    row.time.dateTime = began;
    row.time.textContent = when(began);
    row.time.title = clock.whole.format(new Date(began));
    row.message.textContent = this.textOf(alarm);
    row.facts.textContent = factsOf(alarm, alarm.unit || this.named(alarm.signal)?.unit).join(" · ");
    row.comment.hidden = !alarm.comment;
    row.comment.textContent = `Comment by ${alarm.comment}`;
    row.advice.hidden = !alarm.advice;
    row.advice.textContent = `What to do: ${alarm.advice}`;
    ACTIONS.forEach((action, i) => {
      const fits = reaches(this.role, action.role) && (!action.detector || alarm.why) && (!action.states.length || action.states.includes(alarm.state)) &&
        (!action.begins || alarm.mode !== action.begins) && (!action.ends || alarm.mode === action.ends) &&
        (!action.labels || alarm.label !== action.labels) && (!action.assigned || alarm.assignee);
      row.buttons[i].hidden = !fits;
      row.buttons[i].disabled = Boolean(row.sent);
      const label = action.timed ? action.label.replace(USUAL_HOURS, get("duration").selectedOptions[0].text) :
        action.asks === "person" ? `${action.label} to ${get("person").value.trim() || "me"}` : action.label;
      row.buttons[i].textContent = row.sent === action.name ? `${label} …` : label;
    });
    row.more.hidden = row.buttons.every((button, i) => button.hidden || !seldom(ACTIONS[i]));
  }
}

// Why it rings and since when, in short phrases.
function factsOf(alarm, said) {
  const unit = said ? ` ${said}` : "";
  const facts = [stateOf(alarm).label];
  if (alarm.started) facts.push(`since ${when(alarm.since || alarm.started)}`);
  if (known(alarm.value)) facts.push(`measured ${show(alarm.value)}${unit}`);
  if (known(alarm.expected)) facts.push(`expected ${show(alarm.expected)}${unit}`);
  if (known(alarm.score)) facts.push(`score ${Math.round(alarm.score)}${known(alarm.limit) ? ` (limit ${show(alarm.limit)})` : ""}`);
  else if (known(alarm.limit)) facts.push(`limit ${show(alarm.limit)}${unit}`);
  if (known(alarm.depth)) facts.push(`level ${show(alarm.depth)} standard deviations away`);
  if (alarm.contributions) facts.push(`raised by ${alarm.contributions}`);
  if (alarm.label && worded(alarm.event) !== `labelled ${alarm.label}`) facts.push(`labelled ${alarm.label}`);
  if (alarm.mode) facts.push(worded(alarm.mode));
  if (alarm.assignee) facts.push(`given to ${alarm.assignee}`);
  if (alarm.by) facts.push(`${worded(alarm.event)} by ${alarm.by}`);
  if (alarm.reason) facts.push(alarm.reason);
  return facts;
}
