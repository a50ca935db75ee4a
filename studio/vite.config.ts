import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// The built page is committed, so that an install needs no npm: names are hashes of contents, and the same sources give
// the same bytes on every machine.
export default defineConfig({
  plugins: [svelte()],
  base: "/",
  publicDir: "public",
  build: {
    outDir: "../kinolab/studio/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the policy allows no data: scripts or styles
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: false,
  },
});
