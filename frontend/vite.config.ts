import { defineConfig } from "vite";

// The daemon serves the result at /ui/ from its package's folder; nothing is loaded from anywhere else.
export default defineConfig({
  base: "/ui/",
  build: {
    outDir: "../src/pcloud/api/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
    modulePreload: { polyfill: false },
  },
});
