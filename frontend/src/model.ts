// The shapes of the API's answers that this page reads.

export interface Summary {
  name: string;
  state: string;
  reason: string;
  infrastructure: string;
  target: string;
  paused: boolean;
  assemblies: number;
  running: number;
  since: number;
}

export interface ResourceStatus {
  name: string;
  state: string;
  reason?: string;
  failures?: number;
  since?: number;
}

export interface AssemblyStatus extends ResourceStatus {
  address?: string;
  place?: string;
  resources: ResourceStatus[];
}

export interface DeployableStatus {
  name: string;
  state: string;
  reason: string;
  infrastructure: string;
  target: string;
  paused: boolean;
  since: number;
  assemblies: AssemblyStatus[];
}

export interface CloudEvent {
  id: string;
  type: string;
  subject: string;
  time: string;
  data: Record<string, unknown>;
}

export interface Decision {
  time: number;
  number: number;
  trigger: string;
  observations?: { what: string; signal?: string; detail?: string; time?: number }[];
  rules?: { rule: string; text: string; subject?: string }[];
  actions?: { action: string; subject: string; why?: string; state?: string; seconds?: number }[];
  cost?: Record<string, number>;
  outcome?: string;
}

/** One order between assemblies: `then` starts when `first` runs. */
export interface Order {
  first: string;
  then: string;
}

interface Manifest {
  assemblies?: Record<string, { after?: string[] | Record<string, unknown> } | null>;
  constraints?: unknown;
}

/** Read the orders between assemblies out of a manifest; what is not understood is left out. */
export function orders(document: unknown): Order[] {
  const manifest = document as Manifest;
  const found = new Map<string, Order>();
  const add = (first: string, then: string): void => {
    if (first && then && first !== then) found.set(`${first}\n${then}`, { first, then });
  };
  for (const [name, assembly] of Object.entries(manifest.assemblies ?? {})) {
    const after = assembly?.after ?? [];
    for (const first of Array.isArray(after) ? after : Object.keys(after)) add(String(first), name);
  }
  if (Array.isArray(manifest.constraints)) {
    for (const one of manifest.constraints as { first?: unknown; then?: unknown }[]) {
      add(String(one?.first ?? "").split(".")[0] ?? "", String(one?.then ?? "").split(".")[0] ?? "");
    }
  }
  return [...found.values()];
}

/** How much a state needs attention, most first. */
const URGENCY = ["failed", "unrecoverable", "blocked", "suspect", "unknown", "starting", "paused", "running", "stopped"];

export function urgency(state: string): number {
  const place = URGENCY.indexOf(state);
  return place < 0 ? URGENCY.length : place;
}

/** The state as a person means it: a paused deployable is paused whatever runs in it. */
export function shown(one: { state: string; paused?: boolean }): string {
  return one.paused ? "paused" : one.state;
}

export function text(event: CloudEvent, name: string): string {
  const value = event.data[name];
  return typeof value === "string" ? value : "";
}

export function kind(event: CloudEvent): string {
  return event.type.replace(/^org\.pacemaker-cloud\./, "");
}
