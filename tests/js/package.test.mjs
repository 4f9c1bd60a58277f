/** What is published: one module without imports, small, with a manifest that says so. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

const read = (name) => readFileSync(new URL(`../../src/sockrpc/js/${name}`, import.meta.url), "utf8");
const manifest = JSON.parse(read("package.json"));

test("the module imports nothing and asks Node for nothing", () => {
  assert.doesNotMatch(read("sockrpc.js"), /\bimport\b|\brequire\b|\bprocess\b|\bBuffer\b/);
});

test("the manifest names files that exist, types first, and no dependency", () => {
  assert.deepEqual(Object.keys(manifest.exports["."]), ["types", "default"]);
  for (const file of [...manifest.files, ...Object.values(manifest.exports["."]), manifest.types]) {
    assert.ok(existsSync(new URL(`../../src/sockrpc/js/${file}`, import.meta.url)), file);
  }
  assert.equal(manifest.type, "module");
  assert.equal(manifest.engines.node, ">=22");
  for (const kind of ["dependencies", "peerDependencies", "optionalDependencies", "devDependencies", "scripts"]) {
    assert.equal(manifest[kind], undefined);
  }
});

test("size budget: at most 420 lines and 16 KiB", () => {
  const source = read("sockrpc.js");
  assert.ok(source.split("\n").length <= 421);
  assert.ok(Buffer.byteLength(source) <= 16 * 1024);
});
