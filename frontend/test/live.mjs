// Watches one deployable while something fails, and while the daemon goes and comes back. `ready` tells the other side, and
// the file `offline` when there is nobody to ask.

import { writeFileSync } from "node:fs";

import { address, shots, signIn, withPage } from "./browser.mjs";

await withPage({ colorScheme: "dark" }, async (page) => {
  const ready = (number) => page.evaluate((n) => fetch(`/ready/${n}`).catch(() => undefined), number);
  await page.goto(`${address}/ui/#/d/shop`);
  await signIn(page);
  await page.getByText("live", { exact: true }).waitFor();
  await page.locator("pcloud-graph svg").waitFor();
  await ready(1);
  await page.getByText("it came live").waitFor();
  const node = page.locator('pcloud-graph g[aria-label*="httpd: failed"]');
  await node.waitFor();
  const failed = (await node.count()) === 1;
  await page.screenshot({ path: `${shots}/failed-dark.png`, fullPage: true });
  await ready(2);
  await page.getByText("connecting…").waitFor();
  writeFileSync(`${shots}/offline`, "");
  const offline = true;
  await page.getByText("it came back").waitFor();
  await page.getByText("live", { exact: true }).waitFor();
  await page.locator('pcloud-graph g[aria-label*="httpd: running"]').waitFor();
  const once = await page.getByText("it came live").count();
  return { failed, offline, recovered: true, once };
});
