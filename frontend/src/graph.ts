// The order graph of one deployable: guests with their services, and which starts after which. Laid out by ELK only when its
// shape changes; states are drawn anew without a new layout.

import { LitElement, css, html, svg, type TemplateResult, nothing } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { ElkNode } from "elkjs";
import type { AssemblyStatus, DeployableStatus, Order } from "./model";
import { shared } from "./styles";

const WIDTH = 216;
const HEAD = 56;
const ROW = 26;

interface Placed {
  width: number;
  height: number;
  nodes: Map<string, { x: number; y: number }>;
  edges: { id: string; path: string }[];
}

const height = (assembly: AssemblyStatus): number => HEAD + assembly.resources.length * ROW + (assembly.resources.length ? 8 : 0);

@customElement("pcloud-graph")
export class Graph extends LitElement {
  static override styles = [
    shared,
    css`
      .scroll {
        overflow: auto;
        padding: 1.2rem;
      }
      svg {
        display: block;
        margin: 0 auto;
        max-width: none;
      }
      .box {
        fill: var(--raised);
        stroke: var(--line);
        stroke-width: 1.2;
      }
      .bar {
        fill: var(--c, var(--stopped));
      }
      .dot {
        fill: var(--c, var(--stopped));
      }
      .name {
        font: 650 15px var(--font);
        fill: var(--text);
      }
      .sub {
        font: 12px var(--mono);
        fill: var(--muted);
      }
      .word {
        font: 600 12px var(--font);
        fill: var(--c, var(--muted));
      }
      .service {
        font: 13px var(--font);
        fill: var(--text);
      }
      .edge {
        fill: none;
        stroke: var(--muted);
        stroke-width: 1.5;
      }
      .tip {
        fill: var(--muted);
      }
      g.starting .dot,
      g.starting .bar {
        animation: pulse 1.2s ease-in-out infinite;
      }
      @media (prefers-reduced-motion: reduce) {
        g.starting .dot,
        g.starting .bar {
          animation: none;
        }
      }
    `,
  ];

  @property({ attribute: false }) status!: DeployableStatus;
  @property({ attribute: false }) orders: Order[] = [];
  @state() private placed: Placed | null = null;
  #shape = "";

  override willUpdate(): void {
    const shape = JSON.stringify([this.status.assemblies.map((one) => [one.name, one.resources.length]), this.orders]);
    if (shape === this.#shape) return;
    this.#shape = shape;
    void this.#place(shape);
  }

  async #place(shape: string): Promise<void> {
    const { default: Elk } = await import("elkjs/lib/elk.bundled.js");
    const known = new Set(this.status.assemblies.map((one) => one.name));
    const wanted: ElkNode = {
      id: "root",
      layoutOptions: {
        "elk.algorithm": "layered",
        "elk.direction": "RIGHT",
        "elk.layered.spacing.nodeNodeBetweenLayers": "72",
        "elk.spacing.nodeNode": "24",
        "elk.edgeRouting": "SPLINES",
        "elk.layered.considerModelOrder.strategy": "NODES_AND_EDGES",
        "elk.padding": "[top=4,left=4,bottom=4,right=4]",
      },
      children: this.status.assemblies.map((one) => ({ id: `n:${one.name}`, width: WIDTH, height: height(one) })),
      edges: this.orders
        .filter((one) => known.has(one.first) && known.has(one.then))
        .map((one) => ({ id: `${one.first}→${one.then}`, sources: [`n:${one.first}`], targets: [`n:${one.then}`] })),
    };
    const graph = await new Elk().layout(wanted);
    if (shape !== this.#shape) return;
    this.placed = {
      width: graph.width ?? 0,
      height: graph.height ?? 0,
      nodes: new Map((graph.children ?? []).map((node) => [node.id.slice(2), { x: node.x ?? 0, y: node.y ?? 0 }])),
      edges: (graph.edges ?? []).map((edge) => ({ id: edge.id, path: (edge.sections ?? []).map(path).join(" ") })),
    };
  }

  override render(): TemplateResult {
    const placed = this.placed;
    if (!placed) return html`<div class="scroll muted">Drawing…</div>`;
    const order = this.orders.map((one) => `${one.then} starts after ${one.first}`).join("; ");
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Guests and their order">
      <svg width=${placed.width} height=${placed.height} viewBox="0 0 ${placed.width} ${placed.height}" role="group" aria-label=${order || "no order"}>
        <defs>
          <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
            <path class="tip" d="M0 0 L8 4 L0 8 z" />
          </marker>
        </defs>
        ${placed.edges.map((edge) => svg`<path class="edge" d=${edge.path} marker-end="url(#tip)"><title>${edge.id}</title></path>`)}
        ${this.status.assemblies.map((one) => this.#node(one, placed))}
      </svg>
    </div>`;
  }

  #node(one: AssemblyStatus, placed: Placed): unknown {
    const at = placed.nodes.get(one.name);
    if (!at) return nothing;
    const label = `${one.name}: ${one.state}; ${one.resources.map((found) => `${found.name}: ${found.state}`).join(", ")}`;
    return svg`<g transform="translate(${at.x} ${at.y})" role="img" aria-label=${label}>
      <rect class="box" width=${WIDTH} height=${height(one)} rx="12" />
      <g class=${one.state}><rect class="bar" x="0" y="12" width="4" height=${height(one) - 24} rx="2" />
        <text class="word" x=${WIDTH - 14} y="24" text-anchor="end">${one.state}</text></g>
      <text class="name" x="18" y="25">${short(one.name, 16)}<title>${one.name}</title></text>
      <text class="sub" x="18" y="43">${one.address || "no address"}</text>
      ${one.resources.map(
        (found, index) => svg`<g class=${found.state} transform="translate(18 ${HEAD + index * ROW})">
          <circle class="dot" cx="5" cy="9" r="4.5" />
          <text class="service" x="18" y="13.5">${short(found.name, 17)}<title>${found.reason || found.name}</title></text>
          <text class="word" x=${WIDTH - 32} y="13.5" text-anchor="end">${found.state === "running" ? "" : found.state}${found.failures ? ` ×${found.failures}` : ""}</text>
        </g>`,
      )}
    </g>`;
  }
}

const short = (name: string, most: number): string => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

interface Section {
  startPoint: { x: number; y: number };
  endPoint: { x: number; y: number };
  bendPoints?: { x: number; y: number }[];
}

/** A spline's points come in threes (two handles and an end); whatever is left over is joined by lines. */
function path(section: Section): string {
  const points = [...(section.bendPoints ?? []), section.endPoint];
  let drawn = `M${section.startPoint.x} ${section.startPoint.y}`;
  while (points.length >= 3) {
    const [a, b, c] = points.splice(0, 3) as [{ x: number; y: number }, { x: number; y: number }, { x: number; y: number }];
    drawn += ` C${a.x} ${a.y} ${b.x} ${b.y} ${c.x} ${c.y}`;
  }
  for (const point of points) drawn += ` L${point.x} ${point.y}`;
  return drawn;
}
