// Styles that several components share.

import { css } from "lit";

export const shared = css`
  :host {
    display: block;
  }
  h1,
  h2,
  h3 {
    margin: 0;
    font-weight: 650;
    letter-spacing: -0.01em;
  }
  h2 {
    font-size: 1rem;
  }
  .card {
    background: var(--surface);
    border: 1px solid var(--line);
    border-radius: 14px;
    box-shadow: var(--shadow);
    overflow: clip;
  }
  .head {
    display: flex;
    align-items: center;
    gap: 1rem;
    min-height: 2rem;
    padding: 0.7rem 1.1rem;
    border-bottom: 1px solid var(--line);
  }
  .muted {
    color: var(--muted);
  }
  .mono {
    font-family: var(--mono);
    font-size: 0.86em;
  }
  a {
    color: inherit;
  }
  :focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
    border-radius: 6px;
  }
  .state {
    display: inline-flex;
    align-items: center;
    gap: 0.4em;
    font-weight: 600;
    font-size: 0.86rem;
    color: var(--c);
    white-space: nowrap;
  }
  .state::before {
    content: "";
    width: 0.6em;
    height: 0.6em;
    border-radius: 50%;
    background: var(--c);
  }
  .state.starting::before {
    animation: pulse 1.2s ease-in-out infinite;
  }
  .running {
    --c: var(--running);
  }
  .starting {
    --c: var(--starting);
  }
  .failed,
  .unrecoverable,
  .blocked {
    --c: var(--failed);
  }
  .suspect {
    --c: var(--suspect);
  }
  .stopped {
    --c: var(--stopped);
  }
  .paused {
    --c: var(--paused);
  }
  .unknown {
    --c: var(--unknown);
  }
  @keyframes pulse {
    50% {
      opacity: 0.25;
    }
  }
  @media (prefers-reduced-motion: reduce) {
    .state.starting::before {
      animation: none;
    }
  }
`;
