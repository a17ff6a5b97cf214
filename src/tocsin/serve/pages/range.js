// Which time is shown: live, the last hour to month, or from one moment to another. It stands in the address bar, with the
// machine, the alarm whose story is open, the part of the pipeline that is looked at, the filters of alarms and what is
// compared, so that a link shows what its sender sees.
import { PLACE } from "/access.js";
import { clock } from "/clock.js";

const MINUTE_MS = 60_000;
const LAST = [["live", 0], ["hour", 3.6e6], ["day", 86.4e6], ["week", 7 * 86.4e6], ["month", 30 * 86.4e6]];
const get = (id) => document.getElementById(id);

export class Range {
  /**
   * @param {() => void} changed  called when a person has chosen another time
   * @param {import("/filters.js").AlarmFilter} filter  of the alarms
   * @param {import("/compare.js").Compare} compare  what is compared, which stands in the address bar, too
   */
  constructor(changed, filter, compare) {
    Object.assign(this, { changed, filter, compare });
    this.alarm = ""; // whose story is open
    this.part = ""; // of the pipeline, which is looked at
    this.lanes = ""; // whose lanes are shown: signals (of the machine); machines if empty
    if (!location.hash && sessionStorage.getItem(PLACE)) history.replaceState(null, "", sessionStorage.getItem(PLACE));
    sessionStorage.removeItem(PLACE);
    this.last = 0; // how far back from now; 0 is live, null from `from` to `to`
    this.from = this.to = 0;
    this.machine = null;
    this.area = ""; // of which machines are shown; all if empty
    this.buttons = LAST.map(([name, last]) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = name;
      chip.addEventListener("click", () => this.choose({ last }));
      get("ranges").append(chip);
      return [chip, last];
    });
    get("earlier").addEventListener("click", () => this.move(-1));
    get("later").addEventListener("click", () => this.move(1));
    for (const id of ["from", "to"]) get(id).addEventListener("change", () => {
      const [from, to] = ["from", "to"].map((end) => clock.read(get(end).value));
      if (from < to) this.choose({ from, to });
    });
    window.addEventListener("hashchange", () => { if (this.read()) this.changed(); });
    this.read();
  }

  get live() { return this.last === 0; }

  /** Returns the first and the last moment that are shown, in milliseconds; null if it is live. */
  get ends() {
    if (this.live) return null;
    return this.last === null ? [this.from, this.to] : [Date.now() - this.last, Date.now()];
  }

  /** How often what is shown should be asked for again; 0 if never. */
  get everyMs() { return this.last ? Math.min(Math.max(this.last / 600, 5000), MINUTE_MS) : 0; }

  choose({ last = null, from = 0, to = 0 }) {
    Object.assign(this, { last, from: Math.round(from), to: Math.round(to) });
    this.write();
    this.paint();
    this.changed();
  }

  // Half a screen back or on; what would end after now ends now.
  move(sign) {
    const [from, to] = this.ends ?? [Date.now() - 10 * MINUTE_MS, Date.now()];
    const step = Math.min(sign * (to - from) / 2, Date.now() - to);
    this.choose({ from: from + step, to: to + step });
  }

  around(moment) {
    const to = Math.min(moment + 30 * MINUTE_MS, Date.now());
    this.choose({ from: to - 60 * MINUTE_MS, to });
  }

  show(machine) {
    this.machine = machine;
    this.write();
  }

  paint() {
    for (const [chip, last] of this.buttons) chip.setAttribute("aria-pressed", String(last === this.last));
    const [from, to] = this.ends ?? [0, 0];
    get("from").value = from ? clock.written(from) : "";
    get("to").value = to ? clock.written(to) : "";
    get("zone").textContent = clock.zone;
  }

  // The address bar: machine, and last=hour, or from and to as ISO 8601.
  write() {
    const said = new URLSearchParams();
    if (this.machine !== null) said.set("machine", this.machine);
    if (this.area) said.set("area", this.area);
    if (this.alarm) said.set("alarm", this.alarm);
    if (this.part) said.set("part", this.part);
    if (this.lanes) said.set("lanes", this.lanes);
    for (const [name, value] of this.filter.said) said.set(name, value);
    if (this.last) said.set("last", LAST.find(([, last]) => last === this.last)[0]);
    if (this.last === null) for (const end of ["from", "to"]) said.set(end, new Date(this[end]).toISOString());
    this.compare.write(said);
    history.replaceState(null, "", said.size ? `#${said}` : location.pathname);
  }

  // Takes over what the address bar says; returns whether it says something new.
  read() {
    const said = new URLSearchParams(location.hash.slice(1));
    const before = this.said;
    const [from, to] = [Date.parse(said.get("from")), Date.parse(said.get("to"))];
    this.machine = said.get("machine");
    this.area = said.get("area") ?? "";
    this.alarm = said.get("alarm") ?? "";
    this.part = said.get("part") ?? "";
    this.lanes = said.get("lanes") ?? "";
    this.filter.read(said);
    this.last = LAST.find(([name]) => name === said.get("last"))?.[1] ?? 0;
    if (from < to) Object.assign(this, { last: null, from, to });
    this.compare.read(said);
    this.paint();
    return before !== this.said;
  }

  get said() {
    return JSON.stringify([this.machine, this.area, this.alarm, this.part, this.lanes, this.last, this.from, this.to, this.filter.said, this.compare.state]);
  }
}
