// Which alarms are shown: open or all, of which severities, in which state, whose, with which words. It stands in the
// address bar, so that a link shows what its sender saw, and can be kept under a name in this browser.
import { node, option } from "/chart.js";
import { severityOf, stateOf } from "/wire.js";
import { SEVERITIES, STATES } from "/words.js";

const WRITE_MS = 400; // browsers refuse more than a hundred addresses in half a minute
const KEYS = ["alarms", "severity", "state", "whose", "find"];
const get = (id) => document.getElementById(id);
const split = (text) => (text ? text.split(",") : []);

const IN_STATE = [
  ["", "any state", () => true],
  ["active", "active", (alarm) => stateOf(alarm).active],
  ["unacknowledged", "not acknowledged", (alarm) => stateOf(alarm).unacknowledged],
  ["silenced", "kept silent", (alarm) => Boolean(alarm.mode)],
  ...Object.entries(STATES).filter(([, one]) => one.open).map(([name, one]) => [name.toLowerCase(), `state: ${one.label}`, (alarm) => alarm.state === name]),
];
const WHOSE = [["", "anybody's"], ["mine", "mine"], ["nobody", "nobody's"], ["given", "given to somebody"]];

export class AlarmFilter {
  // `filtered` is called when a person has chosen something else, `write` when the address bar is to say so.
  constructor({ filtered, write }) {
    Object.assign(this, { filtered, write });
    this.me = "";
    this.clear();
    this.chips = SEVERITIES.toReversed().map(({ name, shape }) => {
      const chip = node("button", "chip", `${shape} ${name}`);
      chip.type = "button";
      chip.addEventListener("click", () => { this.severities = this.severities.includes(name) ? this.severities.filter((one) => one !== name) : [...this.severities, name]; this.chosen(); });
      get("severity-chips").append(chip);
      return [chip, name];
    });
    for (const [id, choices, field] of [["alarm-state", IN_STATE, "state"], ["alarm-whose", WHOSE, "whose"]]) {
      get(id).replaceChildren(...choices.map(([value, label]) => option(value, label)));
      get(id).addEventListener("change", () => { this[field] = get(id).value; this.chosen(); });
    }
    get("find-alarm").addEventListener("input", () => {
      this.find = get("find-alarm").value.trim();
      this.filtered();
      clearTimeout(this.writing);
      this.writing = setTimeout(this.write, WRITE_MS);
    });
    get("clear-filters").addEventListener("click", () => { this.clear(); this.chosen(); });
  }

  clear() { Object.assign(this, { show: "open", severities: [], state: "", whose: "", find: "" }); }

  chosen() { this.paint(); this.filtered(); this.write(); }

  paint() {
    for (const [chip, name] of this.chips) chip.setAttribute("aria-pressed", String(this.severities.includes(name)));
    get("alarm-state").value = this.state;
    get("alarm-whose").value = this.whose;
    if (get("find-alarm").value.trim() !== this.find) get("find-alarm").value = this.find;
    get("narrowed").textContent = this.narrows ? "· some alarms are left out" : "";
  }

  /** Whether it leaves out more than what is over. */
  get narrows() { return Boolean(this.severities.length || this.state || this.whose || this.find); }

  /** Returns what an alarm must fulfil to be shown; `words` gives the text in which words are looked for. */
  fits(words) {
    const text = this.find.toLowerCase();
    const inState = IN_STATE.find(([value]) => value === this.state)?.[2] ?? (() => true);
    const whose = { mine: (one) => one === this.me, nobody: (one) => !one, given: Boolean }[this.whose] ?? (() => true);
    return (alarm) => (this.show === "all" || stateOf(alarm).open) && (!this.severities.length || this.severities.includes(severityOf(alarm))) &&
      inState(alarm) && whose(alarm.assignee) && (!text || words(alarm).toLowerCase().includes(text));
  }

  /** Returns what the address bar says of it, by name; what is as usual is left out. */
  get said() {
    const all = { alarms: this.show === "all" ? "all" : "", severity: this.severities.join(","), state: this.state, whose: this.whose, find: this.find };
    return Object.entries(all).filter(([, value]) => value);
  }

  /** @param {URLSearchParams} said */
  read(said) {
    const [show, severities, state, whose, find] = KEYS.map((key) => said.get(key) ?? "");
    Object.assign(this, {
      show: show === "all" ? "all" : "open", severities: split(severities).filter((name) => this.chips.some(([, known]) => known === name)),
      state: IN_STATE.some(([value]) => value === state) ? state : "", whose: WHOSE.some(([value]) => value === whose) ? whose : "", find,
    });
    this.paint();
    this.filtered();
  }
}

// Sets of filters under names, kept in this browser for whoever has signed in.
export class Views {
  // `taken` returns what is chosen now, as in the address bar; `choose` shows such a choice; `say` tells what was done.
  constructor({ taken, choose, say }) {
    Object.assign(this, { taken, choose, say, name: "" });
    get("views").addEventListener("change", () => {
      const view = this.all[get("views").value];
      if (view !== undefined) { get("view-name").value = get("views").value; this.choose(new URLSearchParams(view)); }
    });
    get("save-view").addEventListener("click", () => this.save());
    get("forget-view").addEventListener("click", () => this.forget());
  }

  /** The views of this person. */
  of(name) { this.name = name; this.paint(); }

  get key() { return `views of ${this.name}`; }

  get all() {
    try { return Object(JSON.parse(localStorage.getItem(this.key) || "{}")); } catch { return {}; } // somebody has written into it by hand
  }

  save() {
    const name = get("view-name").value.trim();
    if (!name) { get("view-name").focus(); this.say("Give the view a name first."); return; }
    this.keep({ ...this.all, [name]: this.taken().toString() }, name);
    this.say(`View “${name}” is kept in this browser; the address is its link.`);
  }

  forget() {
    const { [get("views").value]: gone, ...rest } = this.all;
    if (gone === undefined) { this.say("Choose a view first."); return; }
    get("view-name").value = "";
    this.keep(rest, "");
  }

  keep(views, chosen) {
    localStorage.setItem(this.key, JSON.stringify(views));
    this.paint();
    get("views").value = chosen;
  }

  paint() { get("views").replaceChildren(option("", "saved views"), ...Object.keys(this.all).sort().map((name) => option(name, name))); }
}
