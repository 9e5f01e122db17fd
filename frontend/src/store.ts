// What the page knows: the fleet, the chosen deployable, the newest events. Owned here alone; components read it and are told
// of changes. Events say *that* something changed; the state itself is asked from the daemon, at most once every REFRESH.

import type { ReactiveController, ReactiveControllerHost } from "lit";
import * as api from "./api";
import { kind, orders, text, type CloudEvent, type Decision, type DeployableStatus, type Order, type Summary } from "./model";

const REFRESH = 200;
const KEPT = 300;
/** Milliseconds after which the state is asked again though no event came. */
const AT_LEAST = 10_000;

class Store extends EventTarget {
  fleet: Summary[] | null = null;
  status: DeployableStatus | null = null;
  orders: Order[] = [];
  decisions: Decision[] = [];
  /** Newest first; of the chosen deployable, or of all. */
  events: CloudEvent[] = [];
  chosen = "";
  missing = false;
  live = false;
  host = "";
  version = "";
  signedIn = false;
  complaint = "";

  #abort: AbortController | null = null;
  #pending = 0;
  #busy = false;
  #again = false;

  /** Use the token that is kept: true when the daemon accepts it. */
  async signIn(): Promise<boolean> {
    try {
      const found = await api.version();
      this.host = found.host;
      this.version = found.version;
      this.signedIn = true;
      this.complaint = "";
    } catch (error) {
      this.signedIn = false;
      this.complaint = error instanceof api.Refusal && error.status === 401 ? "The daemon does not accept this token." : said(error);
      this.changed();
      return false;
    }
    await this.choose(this.chosen);
    return true;
  }

  signOut(): void {
    api.keepToken("");
    this.#abort?.abort();
    Object.assign(this, { signedIn: false, fleet: null, status: null, events: [], decisions: [], complaint: "" });
    this.changed();
  }

  /** Show one deployable, or the fleet for an empty name. */
  async choose(name: string): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    Object.assign(this, { chosen: name, status: null, orders: [], decisions: [], events: [], missing: false });
    this.changed();
    if (!this.signedIn) return;
    try {
      const page = await api.newest(name);
      if (abort.signal.aborted) return;
      this.events = [...page.events].reverse().slice(0, KEPT);
      await this.refresh();
      void this.#follow(String(page.next), abort.signal);
    } catch (error) {
      this.#failed(error, abort.signal);
    }
  }

  async #follow(after: string, signal: AbortSignal): Promise<void> {
    const timer = setInterval(() => this.#soon(), AT_LEAST);
    try {
      await api.follow(
        after,
        signal,
        (event) => this.#take(event),
        (live) => {
          this.live = live;
          if (live) this.#soon();
          this.changed();
        },
      );
    } catch (error) {
      this.#failed(error, signal);
    } finally {
      clearInterval(timer);
    }
  }

  #take(event: CloudEvent): void {
    if (!this.chosen || text(event, "deployable") === this.chosen) {
      this.events = [event, ...this.events].slice(0, KEPT);
    }
    this.#soon();
    this.changed();
  }

  #soon(): void {
    if (this.#pending) return;
    this.#pending = window.setTimeout(() => {
      this.#pending = 0;
      void this.refresh();
    }, REFRESH);
  }

  /** Ask the daemon for what is shown. One question at a time; what comes meanwhile asks once more. */
  async refresh(): Promise<void> {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    const name = this.chosen;
    try {
      this.fleet = await api.deployables();
      if (name) {
        const [status, document, decisions] = await Promise.all([api.status(name), api.manifest(name), api.explain(name)]);
        if (name === this.chosen) Object.assign(this, { status, orders: orders(document), decisions, missing: false });
      }
    } catch (error) {
      if (error instanceof api.Refusal && error.status === 404) this.missing = true;
      else this.#failed(error, this.#abort?.signal);
    } finally {
      this.#busy = false;
    }
    this.changed();
    if (this.#again || name !== this.chosen) {
      this.#again = false;
      void this.refresh();
    }
  }

  #failed(error: unknown, signal?: AbortSignal): void {
    if (signal?.aborted) return;
    if (error instanceof api.Refusal && error.status === 401) {
      this.signOut();
      this.complaint = "The daemon no longer accepts this token.";
    } else {
      this.live = false;
    }
    this.changed();
  }

  changed(): void {
    this.dispatchEvent(new Event("change"));
  }
}

function said(error: unknown): string {
  return error instanceof api.Refusal ? error.message : "The daemon does not answer.";
}

export const store = new Store();

/** Draws a component anew whenever the store changed. */
export class Watching implements ReactiveController {
  constructor(private readonly host: ReactiveControllerHost) {
    host.addController(this);
  }
  readonly #draw = (): void => this.host.requestUpdate();
  hostConnected(): void {
    store.addEventListener("change", this.#draw);
  }
  hostDisconnected(): void {
    store.removeEventListener("change", this.#draw);
  }
}

/** Whether an event tells of a failure, a recovery or something else of importance. */
export function weight(event: CloudEvent): "bad" | "good" | "plain" {
  const state = text(event, "state");
  const severity = text(event, "severity");
  if (["failed", "unrecoverable", "blocked", "suspect"].includes(state) || severity === "critical" || severity === "warning") return "bad";
  if (state === "running" && kind(event).endsWith(".state")) return "good";
  if (state === "recovered" && kind(event) === "incident") return "good";
  return "plain";
}
