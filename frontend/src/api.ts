// The daemon's API for this page: requests with the token, and the stream of events with resumption.
// The token lives in sessionStorage: it is gone with the tab, and never in an address.

import type { CloudEvent, Decision, DeployableStatus, Summary } from "./model";

const KEY = "pcloud-token";
const FIRST_DELAY = 300;
const LAST_DELAY = 5000;
/** Milliseconds without even a heartbeat after which a stream counts as lost. */
const SILENCE = 45_000;

export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export function token(): string {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepToken(value: string): void {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

async function request(path: string, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(path, { headers: { Authorization: `Bearer ${token()}` }, signal, cache: "no-store" });
  if (!response.ok) {
    let message = `HTTP ${response.status}`;
    try {
      const body = (await response.json()) as { errors?: { message?: string }[] };
      message = body.errors?.[0]?.message ?? message;
    } catch {
      // A refusal without a readable body keeps its number as the message.
    }
    throw new Refusal(response.status, message);
  }
  return response;
}

async function get<T>(path: string): Promise<T> {
  return (await (await request(path, AbortSignal.timeout(15_000))).json()) as T;
}

const named = (name: string): string => `/v1/deployables/${encodeURIComponent(name)}`;

export const version = (): Promise<{ version: string; host: string }> => get("/v1/version");
export const deployables = (): Promise<Summary[]> => get("/v1/deployables");
export const status = (name: string): Promise<DeployableStatus> => get(named(name));
export const manifest = (name: string): Promise<unknown> => get(`${named(name)}/manifest?format=json`);
export const explain = (name: string): Promise<Decision[]> => get(`${named(name)}/explain?limit=30`);

export async function newest(deployable: string): Promise<{ events: CloudEvent[]; next: number }> {
  const where = deployable ? `&deployable=${encodeURIComponent(deployable)}` : "";
  return get(`/v1/events?newest=true&limit=200${where}`);
}

/** Follow the log from a cursor until `signal`; connects again by itself and goes on where it was. */
export async function follow(
  after: string,
  signal: AbortSignal,
  onEvent: (event: CloudEvent) => void,
  onLive: (live: boolean) => void,
): Promise<void> {
  let cursor = after;
  let delay = FIRST_DELAY;
  while (!signal.aborted) {
    const lost = new AbortController();
    const stop = (): void => lost.abort();
    signal.addEventListener("abort", stop);
    let timer = setTimeout(stop, SILENCE);
    try {
      const response = await request(`/v1/events/stream?after=${encodeURIComponent(cursor)}`, lost.signal);
      if (!response.body) throw new Error("no stream");
      onLive(true);
      delay = FIRST_DELAY;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE);
        rest += value;
        const blocks = rest.split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks) cursor = take(block, cursor, onEvent);
      }
    } catch (error) {
      if (error instanceof Refusal && (error.status === 401 || error.status === 403)) throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    }
    if (signal.aborted) return;
    onLive(false);
    await new Promise((resolve) => setTimeout(resolve, delay * (0.5 + Math.random() / 2)));
    delay = Math.min(delay * 2, LAST_DELAY);
  }
}

/** Read one block of the stream; return the cursor after it. Named events and comments are not news. */
function take(block: string, cursor: string, onEvent: (event: CloudEvent) => void): string {
  let id = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) return cursor;
    if (line.startsWith("id:")) id = line.slice(3).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (!data) return cursor;
  onEvent(JSON.parse(data) as CloudEvent);
  return id || cursor;
}
