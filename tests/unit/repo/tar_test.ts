import { assertEquals } from "@std/assert";
import { filesOfTar, makeTar } from "../../../src/repo/tar.ts";
import { tpmStateIn } from "../../../src/repo/tpm_state.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

const FILES = [
  { name: "empty", contents: new Uint8Array() },
  { name: "a block", contents: new Uint8Array(512).fill(7) },
  { name: "más", contents: bytes("one more than a block".repeat(30)) },
];

Deno.test("`filesOfTar()` reads what `makeTar()` made", () => {
  assertEquals(filesOfTar(makeTar(FILES)), FILES);
});

/** What Debian's `tar -C folder -cf - .` makes of a folder with one file, shortened. */
function gnuTar(name: string, contents: Uint8Array): Uint8Array {
  const folder = makeTar([{ name: "./", contents: new Uint8Array() }]).slice(0, 512);
  folder[156] = "5".charCodeAt(0);
  // Its checksum has the type in it: "0" became "5".
  const sum = parseInt(new TextDecoder().decode(folder.slice(148, 154)), 8) + 5;
  folder.set(bytes(sum.toString(8).padStart(6, "0")), 148);
  return new Uint8Array([...folder, ...makeTar([{ name, contents }])]);
}

Deno.test("`filesOfTar()` leaves folders out", () => {
  const contents = bytes("state");
  assertEquals(filesOfTar(gnuTar("./a", contents)), [{ name: "./a", contents }]);
});

const DAMAGED: [what: string, change: (tar: Uint8Array) => Uint8Array][] = [
  ["nothing", () => new Uint8Array()],
  ["zeros", (tar) => tar.fill(0)],
  ["text", () => bytes("#!/bin/sh\n".repeat(100))],
  ["a name with a wrong checksum", (tar) => tar.fill(1, 0, 1)],
  ["an archive that was cut", (tar) => tar.slice(0, 512 * 2)],
  ["a size that is not a number", (tar) => tar.fill(0x80, 124, 125)],
];
for (const [what, change] of DAMAGED) {
  Deno.test(`\`filesOfTar()\` does not take ${what} for an archive`, () => {
    assertEquals(filesOfTar(change(makeTar(FILES))), null);
  });
}

const STATES: [name: string, version: string | undefined][] = [
  ["tpm2-00.permall", "2.0"],
  ["./tpm-00.permall", "1.2"],
  ["tpm2/tpm2-00.permall", "2.0"],
  ["tpm2-00.volatilestate", undefined],
];
for (const [name, version] of STATES) {
  Deno.test(`\`tpmStateIn()\` takes "${name}" for ${version ?? "no state"}`, () => {
    const saved = [
      { name: "vm.xml", contents: bytes("<domain/>") },
      { name: "vm1.tar", contents: gnuTar(name, bytes("state")) },
    ];
    assertEquals(tpmStateIn(saved)?.version, version);
    assertEquals(tpmStateIn(saved)?.from, version && "vm1.tar");
  });
}
