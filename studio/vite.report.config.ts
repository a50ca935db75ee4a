import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// The page of `kinolab report`: one classic script and one style sheet, which kinolab/reports/render.py puts into the
// page itself. A page that is opened from disk may load no module and fetch nothing.
export default defineConfig({
  plugins: [svelte()],
  publicDir: false,
  build: {
    outDir: "../kinolab/reports/page",
    emptyOutDir: true,
    target: "es2022",
    cssCodeSplit: false,
    sourcemap: false,
    reportCompressedSize: false,
    lib: { entry: "src/report/main.ts", name: "KinolabReport", formats: ["iife"], fileName: () => "report.js", cssFileName: "report" },
  },
});
