// Who is there, and what they may do: signing in and out. The server decides; the page only leaves out what would be refused.
import { ROLES } from "/words.js";

const get = (id) => document.getElementById(id);
/** Under which the browser keeps where somebody was who signs in elsewhere. */
export const PLACE = "place";
const JSON_BODY = { "content-type": "application/json" };

/** Whether a role may do what needs another. */
export const reaches = (role, needed) => ROLES.indexOf(role) >= ROLES.indexOf(needed);

export class Access {
  // `ask` talks to the server, `begin` loads the page anew.
  constructor(ask, begin) {
    Object.assign(this, { ask, begin, csrf: "", role: "", name: "" });
    get("sign-in-form").addEventListener("submit", (event) => { event.preventDefault(); this.signIn(); });
    get("provider").addEventListener("click", () => sessionStorage.setItem(PLACE, location.hash)); // the way back has none
    get("sign-out").addEventListener("click", () => this.signOut());
  }

  /** @param {import("/wire.js").SessionInfo} session */
  take(session) {
    Object.assign(this, { csrf: session.csrf, role: session.role, name: session.name });
    get("who").textContent = session.signed_in ? `${session.name}, ${session.role}` : "";
    get("sign-out").hidden = !session.signed_in;
    get("open-query").hidden = !reaches(session.role, "engineer");
    get("open-admin").hidden = !reaches(session.role, "admin");
    if (get("sign-in").open) get("sign-in").close();
  }

  get headers() { return { ...JSON_BODY, "x-tocsin-csrf": this.csrf }; }

  async wanted() {
    if (!get("sign-in").open) get("sign-in").showModal();
    try { get("provider").hidden = !(await this.ask("/auth", "")).provider; } catch (error) { get("sign-in-error").textContent = error.message; }
  }

  async signIn() {
    const [name, secret] = [get("name").value.trim(), get("password").value];
    const body = JSON.stringify(name ? { name, password: secret } : { token: secret });
    get("sign-in-error").textContent = "";
    try {
      await this.ask("/api/session", "", { method: "POST", headers: JSON_BODY, body });
      get("password").value = "";
      get("sign-in").close();
      this.begin();
    } catch (error) { get("sign-in-error").textContent = error.message; }
  }

  async signOut() {
    try { await this.ask("/api/session", "", { method: "DELETE", headers: this.headers }); } finally { location.reload(); }
  }
}
