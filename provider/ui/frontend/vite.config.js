import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vite";

/** A file with the digest of all sources: it shows without a build whether the built files are theirs. */
function sourcesDigest() {
  return {
    name: "sources-digest",
    generateBundle() {
      const names = readdirSync(".", { recursive: true, withFileTypes: true })
        .filter((each) => each.isFile())
        .map((each) => join(each.parentPath, each.name).replaceAll("\\", "/"))
        .filter((each) => !each.split("/").includes("node_modules"))
        .sort();
      const digest = createHash("sha256");
      for (const each of names) digest.update(each).update("\0").update(readFileSync(each)).update("\0");
      const source = `${JSON.stringify({ sha256: digest.digest("hex") })}\n`;
      this.emitFile({ type: "asset", fileName: "sources.json", source });
    },
  };
}

export default defineConfig({
  plugins: [sourcesDigest()],
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
