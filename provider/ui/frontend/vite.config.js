import { defineConfig } from "vite";

export default defineConfig({
  // Relative, so that the page works below a path prefix.
  base: "./",
  build: {
    outDir: "../built",
    emptyOutDir: true,
    assetsDir: ".",
    cssCodeSplit: false,
    target: ["chrome123", "firefox128", "safari17.5"],
    modulePreload: false,
    reportCompressedSize: false,
    rolldownOptions: {
      // Fixed names: the server says whether a file has changed.
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]", codeSplitting: false },
    },
  },
});
